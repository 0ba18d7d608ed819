"""The JSON Schema of a configuration file, for editors: made from the models, short forms included.

Rules of this file: what `load` accepts, the schema accepts, in whatever version of YAML the editor reads (`off` is a text in
1.2 and false in 1.1). It may accept more: a text with `${…}` in it may stand for anything, and rules across fields are told
by `gateway check`. Keys that are refused for now are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema

from gateway.config import allow, answers, auth, limits, model, policies, upstreams, written
from gateway.config.forms import Model
from gateway.config.scalars import EXPANDED

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import core_schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_OFF = [None, False, "off", "no", "false"]
_ON = [True, "on", "yes", "true"]
_EXPANDED: dict[str, Any] = {"type": "string", "pattern": EXPANDED}
_TEXT: dict[str, Any] = {"type": ["string", "number"]}


def schema() -> dict[str, Any]:
    """The schema of a configuration file (JSON Schema 2020-12)."""
    made = written.Document.model_json_schema(schema_generator=_Generator, mode="validation")
    root: dict[str, Any] = {
        "$schema": DIALECT,
        "title": "gateway configuration",
        "patternProperties": {"^x-": {"description": "free, for anchors"}},
    }
    _without_titles(made)
    return root | made


json_schema = schema


def _without_titles(value: Any) -> None:
    """Remove the titles that pydantic makes of names; `title` as a key of ours is none."""
    if isinstance(value, dict):
        if isinstance(value.get("title"), str):
            del value["title"]
        for item in value.values():
            _without_titles(item)
    elif isinstance(value, list):
        for item in value:
            _without_titles(item)


class _Generator(GenerateJsonSchema):
    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        kind = schema["cls"]
        if not issubclass(kind, Model):
            return made
        for key in kind.later:
            made.get("properties", {}).pop(key, None)
        if kind is answers.TestRequest:
            return _test_request(made)
        if kind is auth.AuthPolicy:
            made |= {"minProperties": 1, "maxProperties": 1}
        if kind is upstreams.Upstream:
            _targets_or_discover(made)
        forms = _short_forms(kind, made.get("properties", {}))
        if not forms:
            return made
        description = made.pop("description", None)
        whole: JsonSchemaValue = {"anyOf": [made, *forms]}
        return {"description": description, **whole} if description else whole

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        return {"anyOf": [inner, {"enum": [*_OFF, "unlimited"]}]}

    def tuple_schema(self, schema: core_schema.TupleSchema) -> JsonSchemaValue:
        item = self.generate_inner(schema["items_schema"][0])
        many = super().tuple_schema(schema)
        return (
            {"anyOf": [many, item, {"enum": _OFF}]}
            if not many.get("minItems")
            else {"anyOf": [many, item]}
        )

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        made = super().dict_schema(schema)
        # Names of headers have a form, but a schema that says so is of no use to an editor.
        made.pop("propertyNames", None)
        return {"anyOf": [made, {"enum": _OFF}]}

    def bool_schema(self, _: core_schema.BoolSchema) -> JsonSchemaValue:
        return {"anyOf": [{"enum": [*_ON, *_OFF]}, _EXPANDED]}

    def str_schema(self, _: core_schema.StringSchema) -> JsonSchemaValue:
        return dict(_TEXT)

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        return {"anyOf": [super().int_schema(schema), _EXPANDED]}

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        words = list(schema["expected"])
        if "off" in words:
            words += [False, None]
        return {"anyOf": [{"enum": words}, _EXPANDED]}


def _short_forms(kind: type[Model], properties: dict[str, Any]) -> list[dict[str, Any]]:
    if kind is model.Bind:
        return [{"type": "string", "examples": ["127.0.0.1:8080", "unix:/run/gateway.sock"]}]
    if kind is limits.RateLimit:
        return [{"type": "string", "examples": ["100/s", "100/s per client_ip"]}]
    if kind is auth.AuthPolicy:
        return [{"const": "mtls"}]
    if kind is allow.ClaimTest:
        texts = {"type": ["string", "number", "boolean"]}
        return [texts, {"type": "array", "items": dict(_TEXT), "minItems": 1}]
    if kind is answers.ValueTest:
        return [dict(_TEXT), {"type": "array", "items": dict(_TEXT), "minItems": 1}]
    if kind is policies.Body:
        return [_only(properties["max"])]
    if kind is policies.Buffer:
        return [_only(properties["request"])]
    if kind is upstreams.Upstream:
        return [_only(properties["targets"])]
    forms = [_only(properties[kind.short])] if kind.short is not None else []
    if not any(field.is_required() for field in kind.model_fields.values()):
        forms.append({"enum": [*_ON, *_OFF]} if kind is not written.Document else {})
    return [form for form in forms if form]


def _only(found: dict[str, Any]) -> dict[str, Any]:
    """A property's schema without what is said about the property."""
    return {key: item for key, item in found.items() if key not in ("description", "default")}


def _targets_or_discover(made: JsonSchemaValue) -> None:
    keys = [key for key in ("targets", "discover") if key in made["properties"]]
    made["anyOf"] = [{"required": [key]} for key in keys]


def _test_request(made: JsonSchemaValue) -> JsonSchemaValue:
    url = {"type": "string", "description": "a URL with scheme and host"}
    made["properties"] |= {verb: dict(url) for verb in answers.VERBS}
    made["oneOf"] = [
        {"required": ["method", "url"]},
        *({"required": [verb]} for verb in answers.VERBS),
    ]
    made.pop("required", None)
    return made
