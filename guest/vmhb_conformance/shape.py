# SPDX-License-Identifier: Apache-2.0
"""Compares a message with the JSON Schema of the protocol, docs/protocol.schema.json.

It knows the few keywords that this schema uses: a guest's tester needs no further package. The
messages are told apart by `msg_type`, whose name is that of a definition.
"""

import json
import pkgutil
import re
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
#: Keyword -> whether a value keeps it. Each looks at values of its own type alone.
_KEEPS: Dict[str, Callable[[Any, Any], bool]] = {
    "const": lambda value, const: value == const,
    "enum": lambda value, words: value in words,
    "minimum": lambda value, low: value >= low,
    "maximum": lambda value, high: value <= high,
    "maxLength": lambda value, size: len(value) <= size,
    "maxItems": lambda value, size: len(value) <= size,
    "pattern": lambda value, pattern: re.search(pattern, value) is not None,
}
_WORDS = {
    "const": "is not %s",
    "enum": "is none of %s",
    "minimum": "is below %s",
    "maximum": "is above %s",
    "maxLength": "is longer than %s characters",
    "maxItems": "has more than %s entries",
    "pattern": "does not match %s",
}
#: What is read elsewhere, or says nothing about a value.
_OTHERS = {"$comment", "$ref", "description", "items", "properties", "required", "title", "type"}


def load() -> Dict[str, Any]:
    """Return the schema that comes with this package."""
    data = pkgutil.get_data(__package__, "protocol.schema.json")
    assert data is not None, "the package was installed without its data"  # noqa: S101
    schema: Dict[str, Any] = json.loads(data.decode("ascii"))
    return schema


def first_fault(message: Dict[str, Any], schema: Dict[str, Any]) -> Optional[str]:
    """Return what is wrong with a message, in words, or None."""
    definitions = schema["$defs"]
    msg_type = message.get("msg_type")
    if not isinstance(msg_type, str) or msg_type not in _types(schema):
        return "msg_type %s is none of the protocol" % json.dumps(msg_type)
    for definition in ("header", msg_type):
        for fault in _faults(message, definitions[definition], definitions, definition):
            return fault
    return None


def _types(schema: Dict[str, Any]) -> List[str]:
    return [message["$ref"].split("/")[-1] for message in schema["oneOf"]]


def _faults(value: Any, rule: Dict[str, Any], definitions: Any, where: str) -> Iterator[str]:
    if "$ref" in rule:
        rule = definitions[rule["$ref"].split("/")[-1]]
    kind = rule.get("type")
    if kind is not None and not _is(value, kind):
        yield "%s is no %s: %s" % (where, kind, json.dumps(value))
        return
    for keyword in sorted(set(rule) - _OTHERS):
        if not _KEEPS[keyword](value, rule[keyword]):
            words = _WORDS[keyword] % json.dumps(rule[keyword])
            yield "%s %s: %s" % (where, words, json.dumps(value))
    for key in rule.get("required", ()):
        if key not in value:
            yield "%s has no %s" % (where, key)
    for name, part, inner in _parts(value, rule):
        yield from _faults(part, inner, definitions, where + name)


def _parts(value: Any, rule: Dict[str, Any]) -> Iterator[Tuple[str, Any, Dict[str, Any]]]:
    """The values inside a value, each with its name and its own rule."""
    for key, inner in rule.get("properties", {}).items():
        if key in value:
            yield "." + key, value[key], inner
    if "items" in rule:
        for number, item in enumerate(value):
            yield "[%d]" % number, item, rule["items"]


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
