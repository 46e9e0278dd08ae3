#include "host.h"

#include "base/macros.h"
#include "config/config-json.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>

#define FILE_NAME "host.json"

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

int host_load(struct daemon *daemon, struct error *err)
{
	AUTO_CLOSE int fd = host_open_state(daemon, err);
	const char *address;
	json_t *host = NULL;
	bool known;

	if (fd < 0)
		return fd;
	config_load_json(fd, FILE_NAME, &host, NULL);
	known = take_mac_pool(daemon, host);
	address = json_string_value(json_object_get(host, "api_address"));
	daemon->api_address = address ? strdup(address) : NULL;
	daemon->enhanced_sessions = !json_is_false(json_object_get(host, "enhanced_sessions"));
	json_decref(host);
	return known ? 0 : host_save(daemon, err);
}

int host_save(struct daemon *daemon, struct error *err)
{
	AUTO_CLOSE int fd = host_open_state(daemon, err);
	uint8_t mac[6] = { 0 };
	char text[CONFIG_MAC_TEXT_SIZE];
	json_t *host = NULL;
	int r;

	if (fd < 0)
		return fd;
	config_load_json(fd, FILE_NAME, &host, NULL);
	if (!host)
		host = json_object();
	memcpy(mac, daemon->mac_prefix, sizeof(daemon->mac_prefix));
	json_object_set_new(host, "mac_pool", json_string(config_mac_format(mac, text)));
	json_object_set_new(host, "enhanced_sessions", json_boolean(daemon->enhanced_sessions));
	if (daemon->api_address)
		json_object_set_new(host, "api_address", json_string(daemon->api_address));
	else
		json_object_del(host, "api_address");
	r = config_save_json(fd, FILE_NAME, host, err);
	json_decref(host);
	return r;
}
