# SPDX-License-Identifier: Apache-2.0
"""The Python API of collectd 5.12, as collectd-python(5) and its python.c have it."""

from collections.abc import Mapping, Sequence
from typing import Any, Callable

_Scalar = str | int | float | bool
_Meta = Mapping[str, _Scalar]

NOTIF_FAILURE: int  # 1
NOTIF_WARNING: int  # 2
NOTIF_OKAY: int  # 4

LOG_ERR: int  # 3
LOG_WARNING: int  # 4
LOG_NOTICE: int  # 5
LOG_INFO: int  # 6
LOG_DEBUG: int  # 7

DS_TYPE_COUNTER: int  # 0
DS_TYPE_GAUGE: int  # 1
DS_TYPE_DERIVE: int  # 2
DS_TYPE_ABSOLUTE: int  # 3

class CollectdError(Exception): ...
class Signed(int): ...
class Unsigned(int): ...

class Config:
    @property
    def parent(self) -> Config | None: ...
    @property
    def key(self) -> str: ...
    @property
    def values(self) -> tuple[str | float | bool, ...]: ...
    @property
    def children(self) -> tuple[Config, ...]: ...

class PluginData:
    # bytes, not str, arrive where collectd cut a UTF-8 character in two.
    host: str
    plugin: str
    plugin_instance: str
    type: str
    type_instance: str
    time: float

class Values(PluginData):
    values: Sequence[float]
    interval: float
    meta: dict[str, _Scalar]
    def __init__(
        self,
        type: str = ...,
        values: Sequence[float] = ...,
        plugin_instance: str = ...,
        type_instance: str = ...,
        plugin: str = ...,
        host: str = ...,
        time: float = ...,
        interval: float = ...,
        meta: _Meta = ...,
    ) -> None: ...
    def dispatch(
        self,
        type: str = ...,
        values: Sequence[float] = ...,
        plugin_instance: str = ...,
        type_instance: str = ...,
        plugin: str = ...,
        host: str = ...,
        time: float = ...,
        interval: float = ...,
        meta: _Meta = ...,
    ) -> None: ...

class Notification(PluginData):
    message: str
    severity: int
    meta: dict[str, _Scalar]
    def __init__(
        self,
        type: str = ...,
        message: str = ...,
        plugin_instance: str = ...,
        type_instance: str = ...,
        plugin: str = ...,
        host: str = ...,
        time: float = ...,
        severity: int = ...,
        meta: _Meta = ...,
    ) -> None: ...
    def dispatch(
        self,
        type: str = ...,
        message: str = ...,
        plugin_instance: str = ...,
        type_instance: str = ...,
        plugin: str = ...,
        host: str = ...,
        time: float = ...,
        severity: int = ...,
        meta: _Meta = ...,
    ) -> None: ...

def register_config(callback: Callable[..., None], data: Any = ..., name: str = ...) -> str: ...
def register_init(callback: Callable[..., None], data: Any = ..., name: str = ...) -> str: ...
def register_read(
    callback: Callable[..., None], interval: float = ..., data: Any = ..., name: str = ...
) -> str: ...
def register_write(callback: Callable[..., None], data: Any = ..., name: str = ...) -> str: ...
def register_notification(
    callback: Callable[..., None], data: Any = ..., name: str = ...
) -> str: ...
def register_flush(callback: Callable[..., None], data: Any = ..., name: str = ...) -> str: ...
def register_log(callback: Callable[..., None], data: Any = ..., name: str = ...) -> str: ...
def register_shutdown(callback: Callable[..., None], data: Any = ..., name: str = ...) -> str: ...
def error(message: str) -> None: ...
def warning(message: str) -> None: ...
def notice(message: str) -> None: ...
def info(message: str) -> None: ...
def debug(message: str) -> None: ...
def get_dataset(name: str) -> list[tuple[str, str, float, float]]: ...
def flush(plugin: str = ..., timeout: float = ..., identifier: str = ...) -> None: ...
