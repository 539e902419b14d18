"""publish, alias, and how `penstock functions` shows them."""

from __future__ import annotations

from broker import Broker
from broker.functions import register_function
from broker.records import FunctionSettings
from tests.cli.shell import Shell


async def test_a_build_is_published_named_shown_and_deleted(shell: Shell, broker: Broker) -> None:
    await register_function(broker.core, "orders", FunctionSettings(environment={"KEY": "s3cret"}))
    refused = await shell.run("publish", "orders", status=1)
    assert "--build NAME" in refused.err
    for number, build in enumerate(("one", "two"), start=1):
        await register_function(broker.core, "orders", FunctionSettings(build=build, environment={"KEY": "s3cret"}))
        published = await shell.run("publish", "orders", "--description", "a release")
        assert published.out == f"orders:{number} is the build {build}\n"
    assert (await shell.run("publish", "orders", "--json")).json == {"function": "orders", "version": 2, "build": "two"}
    named = await shell.run("alias", "orders", "live", "1", "--weight", "2=0.25")
    assert named.out == "orders:live is version 1, 25% version 2\n"
    await shell.run("invoke", "orders:live", "1")
    shown = await shell.run("functions", "orders")
    assert shown.cells("orders:2") == ["orders:2", "version", "2", "two", "0", "0"]
    assert shown.cells("orders:live") == ["orders:live", "version", "1,", "25%", "version", "2", "one", "1", "0"]
    told = await shell.run("functions", "orders", "--json")
    assert [version["name"] for version in told.json["versions"]] == ["orders:1", "orders:2", "orders:live"]
    assert told.json["settings"]["environment"] == ["KEY"]
    assert "s3cret" not in told.out
    answer = (await shell.run("alias", "orders", "live", "2", "--json")).json
    assert answer == {"function": "orders", "alias": "live", "version": "2", "weights": {}}
    assert "live" in (await shell.run("delete", "function", "orders:2", "--yes", status=1)).err
    await shell.run("delete", "function", "orders:live", "--yes", "--force")
    await shell.run("delete", "function", "orders:2", "--yes")
    assert [version.number for version in await broker.function("orders").versions()] == [1]


async def test_a_weight_that_is_none_is_refused(shell: Shell, broker: Broker) -> None:
    await register_function(broker.core, "orders", FunctionSettings(build="one"))
    await shell.run("publish", "orders")
    for weight in ("2", "x=0.1", "2=much"):
        refused = await shell.run("alias", "orders", "live", "1", "--weight", weight, status=1)
        assert "VERSION=SHARE" in refused.err
    assert "no-such" in (await shell.run("runtime", "app:app", "--build", "no-such build", status=1)).err
