#include "dev/keymap.h"

#include "base/macros.h"

#include <string.h>
#include <strings.h>

/* By make code from 0x02 on; '\1': no character. */
static const char plain[] = "1234567890-=\1\tqwertyuiop[]\n\1asdfghjkl;'`\1\\zxcvbnm,./\1\1\1 ";
static const char shifted[] = "!@#$%^&*()_+\1\1QWERTYUIOP{}\1\1ASDFGHJKL:\"~\1|ZXCVBNM<>?";
#define FIRST_CODE 0x02

bool keymap_character(unsigned char c, struct keyboard_key *ret, bool *ret_shift)
{
	const char *at = c > 1 ? strchr(plain, c) : NULL;

	*ret_shift = !at;
	if (at) {
		*ret = (struct keyboard_key){ (uint16_t)(at - plain + FIRST_CODE), false };
		return true;
	}
	at = c > 1 ? strchr(shifted, c) : NULL;
	if (!at)
		return false;
	*ret = (struct keyboard_key){ (uint16_t)(at - shifted + FIRST_CODE), false };
	return true;
}

static const struct {
	const char *name;
	struct keyboard_key key;
} names[] = {
	{ "Escape", { 0x01, false } },     { "Esc", { 0x01, false } },
	{ "Backspace", { 0x0e, false } },  { "Tab", { 0x0f, false } },
	{ "Enter", { 0x1c, false } },      { "Return", { 0x1c, false } },
	{ "Ctrl", { 0x1d, false } },       { "Control", { 0x1d, false } },
	{ "Shift", { 0x2a, false } },      { "RightShift", { 0x36, false } },
	{ "Alt", { 0x38, false } },        { "Space", { 0x39, false } },
	{ "CapsLock", { 0x3a, false } },   { "NumLock", { 0x45, false } },
	{ "ScrollLock", { 0x46, false } }, { "F1", { 0x3b, false } },
	{ "F2", { 0x3c, false } },         { "F3", { 0x3d, false } },
	{ "F4", { 0x3e, false } },         { "F5", { 0x3f, false } },
	{ "F6", { 0x40, false } },         { "F7", { 0x41, false } },
	{ "F8", { 0x42, false } },         { "F9", { 0x43, false } },
	{ "F10", { 0x44, false } },        { "F11", { 0x57, false } },
	{ "F12", { 0x58, false } },        { "RightCtrl", { 0x1d, true } },
	{ "RightAlt", { 0x38, true } },    { "AltGr", { 0x38, true } },
	{ "Home", { 0x47, true } },        { "Up", { 0x48, true } },
	{ "PageUp", { 0x49, true } },      { "Left", { 0x4b, true } },
	{ "Right", { 0x4d, true } },       { "End", { 0x4f, true } },
	{ "Down", { 0x50, true } },        { "PageDown", { 0x51, true } },
	{ "Insert", { 0x52, true } },      { "Delete", { 0x53, true } },
	{ "Del", { 0x53, true } },         { "Win", { 0x5b, true } },
	{ "Super", { 0x5b, true } },       { "RightWin", { 0x5c, true } },
	{ "Menu", { 0x5d, true } },        { "SysRq", { 0x54, false } },
	{ "PrintScreen", { 0x37, true } }, { "Plus", { 0x0d, false } },
};

bool keymap_name(const char *name, size_t len, struct keyboard_key *ret)
{
	bool shift;

	if (len == 1)
		return keymap_character((unsigned char)name[0], ret, &shift) && !shift;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strlen(names[i].name) == len && strncasecmp(names[i].name, name, len) == 0) {
			*ret = names[i].key;
			return true;
		}
	return false;
}
