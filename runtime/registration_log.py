"""What a registration did, for the log."""

from __future__ import annotations

from broker.functions import Registered
from broker.log import log


def _loggable(setting: str, value: object) -> object:
    """What is in variables may be secret: their names alone."""
    return sorted(value) if setting == "environment" and isinstance(value, dict) else value


def log_registration(what: str, name: str, done: Registered) -> None:
    """Writes what a registration of a function or mapping (``what``) has changed."""
    for change in done.changes:
        why = {"reason": "the code declares another value, which wins over the API's"} if change.over_api else {}
        before, after = _loggable(change.setting, change.before), _loggable(change.setting, change.after)
        log.info(f"{what}_changed", name=name, setting=change.setting, before=before, after=after, **why)
    for change in done.held:
        log.info(
            f"{what}_setting_held",
            name=name,
            setting=change.setting,
            declared=_loggable(change.setting, change.before),
            in_force=_loggable(change.setting, change.after),
            reason="changed through the API; it holds until the code declares another value",
        )
    if done.created:
        log.info(f"{what}_registered", name=name)
