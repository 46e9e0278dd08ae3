#include "host.h"

#include "base/macros.h"
#include "config/config-json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define FILE_NAME             "host.json"
#define METERING_SAVE_SECONDS 300

int host_open_state(const struct daemon *daemon, struct error *err)
{
	int fd = open(daemon->paths.state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? error_set_errno(err, errno, "opening '%.200s'", daemon->paths.state) : fd;
}

/* Part of every dynamic MAC address of this host. False: it has to be drawn. */
static bool take_mac_pool(struct daemon *daemon, const json_t *host)
{
	const char *stored = json_string_value(json_object_get(host, "mac_pool"));
	uint8_t mac[6] = { 0x00, 0x15, 0x5d };
	bool known = stored && config_mac_parse(stored, mac);

	if (!known && getrandom(mac + 3, 2, 0) != 2)
		abort();
	memcpy(daemon->mac_prefix, mac, sizeof(daemon->mac_prefix));
	return known;
}

void host_default_macs(struct daemon *daemon)
{
	memcpy(daemon->mac_first, daemon->mac_prefix, sizeof(daemon->mac_prefix));
	memcpy(daemon->mac_last, daemon->mac_prefix, sizeof(daemon->mac_prefix));
	daemon->mac_first[5] = 0x00;
	daemon->mac_last[5] = 0xff;
}

uint64_t host_mac_number(const uint8_t mac[6])
{
	uint64_t number = 0;

	for (int i = 0; i < 6; i++)
		number = number << 8 | mac[i];
	return number;
}

int host_check_macs(const uint8_t first[6], const uint8_t last[6], struct error *err)
{
	uint64_t from = host_mac_number(first), to = host_mac_number(last);

	if (first[0] & 1 || last[0] & 1 || !from)
		return error_set(err, ERR_INVALID, "these are no unicast MAC addresses");
	if (from > to)
		return error_set(err, ERR_INVALID,
				 "the least MAC address is above the greatest one");
	if (to - from >= HOST_MAX_MACS)
		return error_set(err, ERR_LIMIT, "a pool has at most %d MAC addresses",
				 HOST_MAX_MACS);
	return 0;
}

static void take_macs(struct daemon *daemon, const json_t *host)
{
	const char *first = json_string_value(json_object_get(host, "mac_minimum"));
	const char *last = json_string_value(json_object_get(host, "mac_maximum"));

	if (!first || !last || !config_mac_parse(first, daemon->mac_first) ||
	    !config_mac_parse(last, daemon->mac_last) ||
	    host_check_macs(daemon->mac_first, daemon->mac_last, NULL) < 0)
		host_default_macs(daemon);
}

static char *copy_text(const json_t *host, const char *name)
{
	const char *text = json_string_value(json_object_get(host, name));

	return text ? strdup(text) : NULL;
}

int host_load(struct daemon *daemon, struct error *err)
{
	AUTO_CLOSE int fd = host_open_state(daemon, err);
	json_t *host = NULL;
	json_int_t seconds;
	bool known;

	if (fd < 0)
		return fd;
	config_load_json(fd, FILE_NAME, &host, NULL);
	known = take_mac_pool(daemon, host);
	take_macs(daemon, host);
	daemon->api_address = copy_text(host, "api_address");
	daemon->vm_path = copy_text(host, "vm_path");
	daemon->vhd_path = copy_text(host, "vhd_path");
	daemon->enhanced_sessions = !json_is_false(json_object_get(host, "enhanced_sessions"));
	seconds = json_integer_value(json_object_get(host, "metering_save_seconds"));
	daemon->metering_save_seconds = seconds > 0 && seconds <= HOST_MAX_METERING_SECONDS
					    ? (unsigned)seconds
					    : METERING_SAVE_SECONDS;
	json_decref(host);
	return known ? 0 : host_save(daemon, err);
}

/* NULL: it is not there. */
static void put_text(json_t *host, const char *name, const char *text)
{
	if (text)
		json_object_set_new(host, name, json_string(text));
	else
		json_object_del(host, name);
}

static void put_mac(json_t *host, const char *name, const uint8_t mac[6])
{
	char text[CONFIG_MAC_TEXT_SIZE];

	put_text(host, name, config_mac_format(mac, text));
}

int host_save(struct daemon *daemon, struct error *err)
{
	AUTO_CLOSE int fd = host_open_state(daemon, err);
	uint8_t mac[6] = { 0 };
	json_t *host = NULL;
	int r;

	if (fd < 0)
		return fd;
	config_load_json(fd, FILE_NAME, &host, NULL);
	if (!host)
		host = json_object();
	memcpy(mac, daemon->mac_prefix, sizeof(daemon->mac_prefix));
	put_mac(host, "mac_pool", mac);
	put_mac(host, "mac_minimum", daemon->mac_first);
	put_mac(host, "mac_maximum", daemon->mac_last);
	json_object_set_new(host, "enhanced_sessions", json_boolean(daemon->enhanced_sessions));
	json_object_set_new(host, "metering_save_seconds",
			    json_integer(daemon->metering_save_seconds));
	put_text(host, "api_address", daemon->api_address);
	put_text(host, "vm_path", daemon->vm_path);
	put_text(host, "vhd_path", daemon->vhd_path);
	r = config_save_json(fd, FILE_NAME, host, err);
	json_decref(host);
	return r;
}

void host_free(struct daemon *daemon)
{
	free(daemon->vm_path);
	free(daemon->vhd_path);
}
