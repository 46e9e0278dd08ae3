#include "config/firmware.h"

#include "base/macros.h"
#include "base/text.h"
#include "config/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- words ---- */

#define WORDS(...)                                                                                 \
	{                                                                                          \
		(const char *const[]){ __VA_ARGS__ },                                              \
		    sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *)                  \
	}

const struct config_words config_secure_boot_templates =
    WORDS("MicrosoftWindows", "MicrosoftUEFICertificateAuthority", "OpenSourceShieldedVM");
const struct config_words config_boot_protocols = WORDS("IPv4", "IPv6");
const struct config_words config_console_modes = WORDS("Default", "COM1", "COM2", "None");
const struct config_words config_boot_kinds = WORDS("CD", "IDE", "LegacyNetworkAdapter", "Floppy");

/* By enum config_secure_boot_template. */
static const char *const template_ids[] = {
	"1734c6e8-3154-4dda-ba5f-a874cc483422",
	"272e7447-90a4-4563-a4b9-8e4ab00526ce",
	"4292ae2b-ee2c-42b5-a969-dd8f8689f6f3",
};

bool config_word(const struct config_words *words, const char *word, unsigned *ret)
{
	for (unsigned i = 0; word && i < words->count; i++)
		if (strcasecmp(words->words[i], word) == 0) {
			*ret = i;
			return true;
		}
	return false;
}

const char *config_secure_boot_id(unsigned template)
{
	return template_ids[template];
}

bool config_secure_boot_from_id(const char *id, unsigned *ret)
{
	struct guid wanted, its;

	for (unsigned i = 0; id && i < ARRAY_SIZE(template_ids); i++)
		if (guid_parse(id, &wanted) && guid_parse(template_ids[i], &its) &&
		    guid_equal(&wanted, &its)) {
			*ret = i;
			return true;
		}
	return false;
}

/* ---- settings ---- */

const struct config_firmware config_firmware_default = {
	.secure_boot = true,
	.startup_order = { 0, 1, 2, 3 },
};

int config_firmware_check(const struct config_firmware *firmware, struct error *err)
{
	unsigned kinds = 0;

	for (unsigned i = 0; i < CONFIG_BOOT_KINDS; i++)
		kinds |= firmware->startup_order[i] < CONFIG_BOOT_KINDS
			     ? 1u << firmware->startup_order[i]
			     : 0;
	if (kinds != (1u << CONFIG_BOOT_KINDS) - 1)
		return error_set(err, ERR_INVALID,
				 "a startup order has each of CD, IDE, LegacyNetworkAdapter and "
				 "Floppy once");
	return 0;
}

/* ---- the boot order ---- */

static unsigned *position_of(const struct config_boot *device)
{
	return device->disk ? &device->disk->boot_position : &device->nic->boot_position;
}

static bool is_same(const struct config_boot *a, const struct config_boot *b)
{
	return a->disk == b->disk && a->nic == b->nic;
}

/* Behind all with a place before or equal to its own. */
static void insert(struct config_boot *order, unsigned *count, struct config_boot device)
{
	unsigned position = *position_of(&device), at = *count;

	if (position == CONFIG_BOOT_NEVER)
		return;
	/* One less than CONFIG_BOOT_LAST is the greatest number. */
	while (at > 0 && *position_of(&order[at - 1]) - 1 > position - 1)
		at--;
	memmove(&order[at + 1], &order[at], ((*count)++ - at) * sizeof(*order));
	order[at] = device;
}

unsigned config_boot_order(const struct config_vm *vm, struct config_boot *ret)
{
	unsigned count = 0;

	for (unsigned i = 0; i < vm->disk_count; i++)
		insert(ret, &count, (struct config_boot){ .disk = &vm->disks[i] });
	for (unsigned i = 0; i < vm->nic_count; i++)
		insert(ret, &count, (struct config_boot){ .nic = &vm->nics[i] });
	return count;
}

void config_set_boot_order(struct config_vm *vm, const struct config_boot *order, unsigned count)
{
	for (unsigned i = 0; i < vm->disk_count; i++)
		vm->disks[i].boot_position = CONFIG_BOOT_NEVER;
	for (unsigned i = 0; i < vm->nic_count; i++)
		vm->nics[i].boot_position = CONFIG_BOOT_NEVER;
	/* From behind: what is named twice has its first place. */
	for (unsigned i = count; i-- > 0;)
		*position_of(&order[i]) = i + 1;
}

void config_boot_first(struct config_vm *vm, const struct config_boot *first)
{
	struct config_boot order[CONFIG_MAX_DISKS + CONFIG_MAX_NICS];
	unsigned count = config_boot_order(vm, order), place = 1;

	*position_of(first) = place++;
	for (unsigned i = 0; i < count; i++)
		if (!is_same(&order[i], first))
			*position_of(&order[i]) = place++;
}

char *config_boot_text(const struct config_boot *device)
{
	const struct config_disk *disk = device->disk;

	return disk ? text_format("%s:%u:%u", config_bus_name(disk->bus), disk->controller_number,
				  disk->lun)
		    : text_format("%s", device->nic->name);
}

unsigned config_boot_find(const struct config_vm *vm, const char *text, struct config_boot *ret)
{
	unsigned controller, lun, count = 0;
	int end = 0;

	if (strncasecmp(text, "SCSI:", 5) == 0 &&
	    sscanf(text + 5, "%3u:%3u%n", &controller, &lun, &end) == 2 && !text[5 + end]) {
		ret[0] = (struct config_boot){ .disk = config_find_disk(vm, CONFIG_BUS_SCSI,
									controller, lun) };
		if (ret[0].disk)
			return 1;
	}
	for (unsigned i = 0; i < vm->nic_count; i++)
		if (strcasecmp(vm->nics[i].name, text) == 0)
			ret[count++] = (struct config_boot){ .nic = &vm->nics[i] };
	return count;
}

/* ---- serial ports ---- */

#define PIPE          "\\\\.\\pipe\\"
#define PIPE_NAME_MAX 200
#define PATH_BYTES    4095

const char *config_pipe_name(const char *path)
{
	return strncasecmp(path, PIPE, strlen(PIPE)) == 0 ? path + strlen(PIPE) : NULL;
}

static bool has_control_characters(const char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			return true;
	return false;
}

int config_com_check(const struct config_com *com, struct error *err)
{
	const char *name = com->path ? config_pipe_name(com->path) : NULL;

	if (!com->path)
		return 0;
	if (!name && com->path[0] != '/')
		return error_set(err, ERR_INVALID,
				 "'%.200s' is neither a pipe of this host (\\\\.\\pipe\\NAME) nor "
				 "the absolute path of a Unix socket",
				 com->path);
	if (has_control_characters(com->path) ||
	    strlen(com->path) > (name ? PIPE_NAME_MAX : PATH_BYTES))
		return error_set(err, ERR_INVALID,
				 "a serial port's path is too long or has control characters");
	if (name && (!*name || *name == '.' || strpbrk(name, "/\\")))
		return error_set(err, ERR_INVALID, "'%.200s' is no name of a pipe", name);
	return 0;
}

int config_set_com_path(struct config_com *com, const char *path, struct error *err)
{
	/* As typed, within "...", and without quotes. */
	static const char *const forms[] = { PIPE, "\\.\\pipe\\", "\\.pipe" };
	struct config_com wanted = { 0 };
	AUTO_FREE char *pipe = NULL;
	int r;

	for (size_t i = 0; path && !pipe && i < ARRAY_SIZE(forms); i++)
		if (strncasecmp(path, forms[i], strlen(forms[i])) == 0)
			pipe = text_format("%s%s", PIPE, path + strlen(forms[i]));
	wanted.path = pipe ? pipe : path && *path ? (char *)path : NULL;
	r = config_com_check(&wanted, err);
	return r < 0 ? r : config_set_string(&com->path, wanted.path, err);
}
