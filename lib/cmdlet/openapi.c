/* The API as an OpenAPI 3.0 document, made from the table; the few paths that are no cmdlets are
 * written here, as docs/api.md has them. */
#include "cmdlet/cmdlet.h"

#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

static json_t *schema_of_type(const struct cmdlet_param *param)
{
	switch (param->type) {
	case CMDLET_INTEGER:
		return json_pack("{s:s, s:s}", "type", "integer", "format", "int64");
	case CMDLET_SIZE:
		return json_pack("{s:[{s:s, s:s}, {s:s}], s:s}", "oneOf", "type", "integer",
				 "format", "int64", "type", "string", "description",
				 "Bytes, or a text such as 512MB");
	case CMDLET_BOOLEAN:
	case CMDLET_SWITCH:
		return json_pack("{s:s}", "type", "boolean");
	case CMDLET_GUID:
		return json_pack("{s:s, s:s}", "type", "string", "format", "uuid");
	default:
		return json_pack("{s:s}", "type", "string");
	}
}

static void add_values(json_t *schema, const char *words)
{
	json_t *list = json_array();

	while (*words) {
		size_t len = strcspn(words, " ");

		json_array_append_new(list, json_stringn(words, len));
		words += len + strspn(words + len, " ");
	}
	json_object_set_new(schema, "enum", list);
}

static json_t *param_schema(const struct cmdlet_param *param)
{
	json_t *schema = schema_of_type(param);

	if (param->type == CMDLET_ENUM)
		add_values(schema, param->values);
	if (param->max && param->type == CMDLET_INTEGER) {
		json_object_set_new(schema, "minimum", json_integer(param->min));
		json_object_set_new(schema, "maximum", json_integer(param->max));
	}
	/* One value alone is taken for a list of it. */
	if (param->flags & CMDLET_LIST)
		schema = json_pack("{s:s, s:o}", "type", "array", "items", schema);
	json_object_set_new(schema, "description", json_string(param->help));
	if (param->dflt)
		json_object_set_new(schema, "x-default", json_string(param->dflt));
	return schema;
}

static bool is_of_request(const struct cmdlet_param *param)
{
	return !(param->flags & (CMDLET_LOCAL | CMDLET_NOT_YET)) && param->type != CMDLET_OBJECTS;
}

static json_t *request_schema(const struct cmdlet *cmdlet)
{
	json_t *properties = json_object(), *required = json_array(), *schema;

	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++) {
		if (!is_of_request(p))
			continue;
		json_object_set_new(properties, p->name, param_schema(p));
		if ((p->flags & CMDLET_MANDATORY) && p->sets == 0)
			json_array_append_new(required, json_string(p->name));
	}
	schema = json_pack("{s:s, s:o, s:b}", "type", "object", "properties", properties,
			   "additionalProperties", 0);
	if (json_array_size(required))
		json_object_set(schema, "required", required);
	json_decref(required);
	return schema;
}

/* The members that are shown; there may be more. */
static json_t *result_schema(const struct cmdlet *cmdlet)
{
	const struct cmdlet_column *column = cmdlet->output ? cmdlet->output->columns : NULL;
	json_t *properties = json_object();

	for (; column && column->key; column++)
		json_object_set_new(properties, column->key, json_object());
	return json_pack("{s:s, s:o}", "type", "object", "properties", properties);
}

static json_t *reference(const char *what)
{
	return json_pack("{s:s}", "$ref", what);
}

/* {"description": ..., "content": {"application/json": {"schema": ...}}}; takes schema. */
static json_t *content(const char *description, json_t *schema)
{
	return json_pack("{s:s, s:{s:{s:o}}}", "description", description, "content",
			 "application/json", "schema", schema);
}

static json_t *done_schema(const struct cmdlet *cmdlet)
{
	return json_pack("{s:[o, {s:s, s:{s:{s:s, s:o}}}]}", "allOf",
			 reference("#/components/schemas/Done"), "type", "object", "properties",
			 "results", "type", "array", "items", result_schema(cmdlet));
}

static json_t *cmdlet_operation(const struct cmdlet *cmdlet)
{
	return json_pack(
	    "{s:s, s:s, s:s, s:[s], s:s, s:{s:{s:{s:o}}}, s:{s:o, s:o, s:o}}", "operationId",
	    cmdlet->name, "summary", cmdlet->synopsis, "description", cmdlet->description, "tags",
	    "cmdlets", "x-role", cmdlet_role_name(cmdlet_role_needed(cmdlet)), "requestBody",
	    "content", "application/json", "schema", request_schema(cmdlet), "responses", "200",
	    content("It is done; perhaps not for all objects.", done_schema(cmdlet)), "202",
	    content("With Prefer: respond-async, it goes on as a job.",
		    reference("#/components/schemas/Running")),
	    "default", reference("#/components/responses/Error"));
}

/* ---- the other paths ---- */

static const struct {
	const char *path, *method, *summary, *status, *answer, *parameters;
} others[] = {
	{ "/v1/job/{job}", "get", "Looks at a job, or waits for news of it", "200",
	  "The job; 202 while it runs.", "job version? wait?" },
	{ "/v1/job/{job}", "delete", "Ends the waiting of a job", "200", "The job.", "job" },
	{ "/v1/console/{name}", "get", "Connects to a serial console (Upgrade: oyako-console)",
	  "101", "The connection is the console, or a descriptor of it follows (Unix socket).",
	  "name" },
	{ "/v1/socket/{name}", "get", "Connects to a program in a guest (Upgrade: oyako-socket)",
	  "101", "As a console.", "name service?" },
	{ "/v1/enhanced-session/{name}", "get",
	  "Connects to the guest's RDP server (Upgrade: oyako-socket)", "101", "As a console.",
	  "name" },
	{ "/v1/refused/{name}", "post", "Reports that the guest refused a sign-in", "200", "Noted.",
	  "name" },
	{ "/v1/events", "get", "Follows the event log: a JSON object a line, and empty lines",
	  "200", "The events, until the client or the service goes away.", "last? vm? level?" },
	{ "/v1/version", "get", "Names the service", "200", "Service, version and process.", "" },
	{ "/v1/openapi.json", "get", "This document", "200", "An OpenAPI document.", "" },
};

static json_t *path_parameters(const char *path, const char *words)
{
	json_t *list = json_array();

	while (*words) {
		size_t len = strcspn(words, " "), name = strcspn(words, "? ");
		bool in_path = strchr(path, '{') && name == len;

		json_array_append_new(list,
				      json_pack("{s:s#, s:s, s:b, s:{s:s}}", "name", words,
						(int)name, "in", in_path ? "path" : "query",
						"required", in_path, "schema", "type", "string"));
		words += len + strspn(words + len, " ");
	}
	return list;
}

static void add_other(json_t *paths, size_t i)
{
	json_t *path = json_object_get(paths, others[i].path);

	if (!path) {
		path = json_object();
		json_object_set_new(paths, others[i].path, path);
	}
	json_object_set_new(path, others[i].method,
			    json_pack("{s:s, s:[s], s:o, s:{s:{s:s}, s:o}}", "summary",
				      others[i].summary, "tags", "service", "parameters",
				      path_parameters(others[i].path, others[i].parameters),
				      "responses", others[i].status, "description",
				      others[i].answer, "default",
				      reference("#/components/responses/Error")));
}

static json_t *components(void)
{
	static const char text[] =
	    "{\"securitySchemes\":{\"token\":{\"type\":\"http\",\"scheme\":\"bearer\"},"
	    "\"certificate\":{\"type\":\"http\",\"scheme\":\"mutual\"}},"
	    "\"schemas\":{"
	    "\"Error\":{\"type\":\"object\",\"required\":[\"code\",\"text\"],\"properties\":{"
	    "\"code\":{\"type\":\"string\"},\"text\":{\"type\":\"string\"},"
	    "\"object\":{\"type\":\"string\"}}},"
	    "\"Done\":{\"type\":\"object\",\"required\":[\"job\",\"state\",\"results\",\"errors\"],"
	    "\"properties\":{\"job\":{\"type\":\"integer\"},"
	    "\"state\":{\"type\":\"string\",\"enum\":[\"done\"]},"
	    "\"results\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}},"
	    "\"errors\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/Error\"}}}},"
	    "\"Running\":{\"type\":\"object\",\"required\":[\"job\",\"state\",\"version\"],"
	    "\"properties\":{\"job\":{\"type\":\"integer\"},"
	    "\"state\":{\"type\":\"string\",\"enum\":[\"running\"]},"
	    "\"version\":{\"type\":\"integer\"},"
	    "\"progress\":{\"type\":\"object\",\"properties\":{\"activity\":{\"type\":\"string\"},"
	    "\"object\":{\"type\":\"string\"}}}}}},"
	    "\"responses\":{\"Error\":{\"description\":\"The request as a whole was refused.\","
	    "\"content\":{\"application/json\":{\"schema\":{\"type\":\"object\",\"properties\":{"
	    "\"error\":{\"$ref\":\"#/components/schemas/Error\"}}}}}}}}";
	json_t *json = json_loads(text, 0, NULL);

	if (!json)
		abort();
	return json;
}

json_t *cmdlet_openapi(const char *version)
{
	json_t *paths = json_object();
	const struct cmdlet *cmdlet;

	for (size_t i = 0; (cmdlet = cmdlet_at(i)); i++) {
		char path[80] = "/v1/cmdlet/";

		if (cmdlet->place != CMDLET_IN_DAEMON)
			continue;
		strncat(path, cmdlet->name, sizeof(path) - strlen(path) - 1);
		json_object_set_new(paths, path,
				    json_pack("{s:o}", "post", cmdlet_operation(cmdlet)));
	}
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		add_other(paths, i);
	return json_pack(
	    "{s:s, s:{s:s, s:s, s:s}, s:[{s:[]}, {s:[]}, {}], s:o, s:o}", "openapi", "3.0.3",
	    "info", "title", "Oyako", "version", version, "description",
	    "Hyper-V's cmdlets as JSON over HTTP. Without token or certificate only on "
	    "the Unix socket.",
	    "security", "token", "certificate", "paths", paths, "components", components());
}
