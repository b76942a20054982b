"""A hostile server in a campaign of masked sums, a changed message, a policy: who refuses what, in which words."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from made_groups import SIX, TARGET, THREE, consortium, model, on_the_way, plan
from test_campaign import run

from fedmerge import container, seals, sums, tasks
from fedmerge.errors import CampaignStopped, Refused
from fedmerge.privacy import hello
from fedmerge.privacy.hello import UNIT, Hello
from fedmerge.transport import Letter
from fedmerge.trust import keys
from server.ground import STARTS
from sites import config, correspondence, simulation
from sites.client import Failed


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    """The images of three sources and a target."""
    return consortium(tmp_path_factory.mktemp("hospitals"), THREE)


class Table:
    """A campaign that stopped when all had said hello, and a server that says to the sites what it likes."""

    def __init__(self, path: Path, out: Path) -> None:
        self.run = {"campaign": str(path), "out": str(out)}
        self.sites = {name: config.from_campaign(path, name, work=out / "sites" / name) for name in (*THREE, TARGET)}
        self.hellos = {}
        for file in sorted((out / "server/summed").glob("*/*.hello")):
            self.hellos[file.stem] = Hello(**json.loads(file.read_text()))
        one = self.hellos["north"]
        self.group = sums.Group(one.run, one.group, one.schema, dict.fromkeys(THREE, UNIT), TARGET)
        said = self.ask("query.hello", TARGET, sums.Greet("small", self.group))["hello"]
        self.hellos[TARGET] = Hello(**json.loads(said))
        self.told = {name: correspondence.told(site) for name, site in self.sites.items()}
        (start,) = (out / "server" / STARTS).glob("*.safetensors")
        self.ancestor = start.read_bytes()

    def ask(self, kind, site, record, **payload):
        """What a site answers to a task."""
        return self.letter(kind, site, record, payload).task

    def letter(self, kind, site, record, payload):
        """The whole answer."""
        return simulation.answer(kind, Letter(tasks.to_table(record), payload, to=site), self.run)

    def mask(self, hellos=None, group=None, site="north", ancestor=None):
        """A member's message, for the group as the server tells it."""
        (made,) = self.sites[site].work.glob("contributions/*.safetensors")
        texts = tuple(one.encode().decode() for one in (hellos or self.hellos.values()))
        task = sums.Mask("small", made.stem, group or self.group, texts, self.told)
        return self.letter("query.mask", site, task, {"ancestor": ancestor or self.ancestor}).payload["message"]

    def forged(self, name, signer, /, **changes):
        """A hello of `name` with other facts, signed by `signer`."""
        other = replace(self.hellos[name], signature="", **changes)
        key = correspondence.own(self.sites[signer]).signing
        return replace(other, signature=keys.sign(key, hello.PURPOSE, other.signed()))


@pytest.fixture(scope="module")
def table(hospitals, tmp_path_factory):
    """The table, with every model trained and none masked."""
    out = tmp_path_factory.mktemp("hostile")

    def stop(kind, site, task, payload):
        return "no" if (kind, site) == ("query.hello", TARGET) else None

    path = plan(hospitals, [list(THREE)], name="hostile.toml")
    with pytest.raises(CampaignStopped):
        run(path, out, "imm-mode", on_the_way(stop), nodes=4)
    return Table(path, out)


def fresh():
    """A key that is nobody's."""
    return keys.public_text(keys.new_exchange())


def without(name):
    """All hellos but one."""
    return lambda t: [one for one in t.hellos.values() if one.name != name]


def other(name, **changes):
    """All hellos, one of them with other facts and signed by that site."""
    return lambda t: [*without(name)(t), t.forged(name, name, **changes)]


HELLOS = {
    "repeated": (lambda t: [*t.hellos.values(), t.hellos["south"]], "south: the hello is repeated"),
    "missing": (without("west"), "west: the hello is missing"),
    "missing target": (without(TARGET), f"{TARGET}: the hello is missing"),
    "twice": (lambda t: [*t.hellos.values(), t.forged("south", "south", key=fresh())], "south: two hellos that differ"),
    "unsigned": (
        lambda t: [*without("south")(t), replace(t.hellos["south"], signature="")],
        "south: the hello is not signed",
    ),
    "forged": (
        lambda t: [*without("south")(t), t.forged("south", "west", key=fresh())],
        "south: the signature of the hello does not hold",
    ),
    "stranger": (
        lambda t: [*t.hellos.values(), t.forged("south", "south", name="island", key=fresh())],
        "'island' is a stranger to group group-1",
    ),
    "another run": (other("south", run="another", key=fresh()), "south: run of the hello expected .*, got 'another'"),
    "changed weight": (other("south", weight=UNIT // 2), "south: weight of the hello expected 1048576, got 524288"),
    "own key changed": (other("north", key=fresh()), "the hello in this site's name is not the one that it has said"),
}


@pytest.mark.parametrize("what", HELLOS)
def test_a_member_masks_for_no_hellos_but_those_of_its_group(table, what):
    """The sentence names the site whose hello it is."""
    hellos, sentence = HELLOS[what]
    with pytest.raises(Failed, match=f"^north: {sentence}"):
        table.mask(hellos(table))


GROUPS = {
    "two": (lambda g: replace(g, weights=dict.fromkeys(("north", "south"), UNIT)), "at least 3 members, got 2"),
    "weights": (lambda g: replace(g, weights={**g.weights, "south": UNIT // 2}), "south: weight of the hello expected"),
    "another run": (lambda g: replace(g, run="another"), "run of the hello expected another"),
    "not in it": (lambda g: replace(g, weights=dict.fromkeys(SIX[1:4], UNIT)), "neither a member .* nor its target"),
    "its target": (lambda g: replace(g, target="north"), "this site is a source, and group-1 has it as something else"),
}


@pytest.mark.parametrize("what", GROUPS)
def test_a_member_masks_for_no_other_group_than_it_said_hello_to(table, what):
    """Whatever the server says of the group at the second message."""
    change, sentence = GROUPS[what]
    with pytest.raises(Failed, match=f"^north: .*{sentence}"):
        table.mask(group=change(table.group))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (GROUPS["two"][0], GROUPS["two"][1]),
        (
            lambda g: replace(g, weights={**g.weights, "north": UNIT // 2}),
            "this site has said another hello to group-1",
        ),
        (lambda g: replace(g, schema="sha256:" + "0" * 64), "this site has said another hello to group-1"),
        (GROUPS["not in it"][0], GROUPS["not in it"][1]),
        (lambda g: replace(g, run="with a space"), "'run' of a hello expected 1 to 128 printable characters"),
    ],
)
def test_a_member_says_one_hello_to_a_group_of_three(table, change, sentence):
    """A second one with other facts is refused, and the first is said again in the same bytes."""
    with pytest.raises(Failed, match=f"^north: .*{sentence}"):
        table.ask("query.hello", "north", sums.Greet("small", change(table.group)))
    again = table.ask("query.hello", "north", sums.Greet("small", table.group))["hello"]
    assert again == table.hellos["north"].encode().decode()


def test_differences_from_other_weights_are_not_summed(table):
    """The server cannot move the start that a member's model is measured from."""
    header, numbers = container.decode(table.ancestor, len(table.ancestor), "start"), bytearray(table.ancestor)
    at = next(iter(header.entries.values())).start
    numbers[at : at + 4] = b"\0\0\0\0"
    with pytest.raises(Failed, match=r"^north: the model that was trained here did not start from this ancestor"):
        table.mask(ancestor=bytes(numbers))


def policy(path, line):
    """The campaign with a policy of north's."""
    text = path.read_text()
    mark = '[site.data]\nfolder = "north"'
    other_ = path.with_name("policy.toml")
    other_.write_text(text.replace(mark, f"[site.policy]\n{OPEN}{line}\n{mark}"))
    return other_


OPEN = 'roles = ["*"]\ncampaigns = ["*"]\nnets = ["*"]\nlabels = ["*"]\n'


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('trust = ["target"]', "policy line 'trust' does not list 'group'"),
        ('trust = ["group"]\nreceivers = ["south"]', f"policy line 'receivers' does not list '{TARGET}'"),
        ('trust = ["group"]\nreceivers = ["*"]', "policy line 'weights = false'"),
        ('trust = ["group"]\nreceivers = ["*"]\nweights = true\nmin_cases = 6', "policy line 'min_cases = 6'"),
        (
            'trust = ["group"]\nreceivers = ["*"]\nweights = true\nmin_cases = 1\nmax_contributions = 0',
            "policy line 'max_contributions = 0'",
        ),
        (
            'trust = ["group"]\nreceivers = ["*"]\nweights = true\nmin_cases = 1\nmax_contributions = 1\nmax_bytes = 9',
            "policy line 'max_bytes = 9': the contribution has",
        ),
    ],
)
def test_a_policy_holds_for_masked_sums(table, line, sentence):
    """Line by line; what is refused is not in the ledger."""
    told = dict(table.run)
    table.run["campaign"] = str(policy(Path(told["campaign"]), line))
    try:
        with pytest.raises(Failed, match=f"^north: {sentence}"):
            table.mask()
    finally:
        table.run.update(told)
    assert not (table.sites["north"].work / "masked/masked.json").exists()


def test_what_was_masked_comes_again_in_the_same_bytes_and_leaves_in_no_other_way(table):
    """After all refusals the honest group is served; sealed to a target, or in another group, the model stays."""
    first = table.mask(site="west")
    assert table.mask(site="west") == first
    (made,) = table.sites["west"].work.glob("contributions/*.safetensors")
    net = tasks.Net({"name": "isensee2017"}, 1, ("ball",), (8, 8, 8))
    seal = seals.Seal("small", "", made.stem, "contribution", TARGET, net, table.told[TARGET])
    with pytest.raises(Failed, match=r"^west: this model has entered a masked sum, and leaves in no other way"):
        table.ask("query.seal", "west", seal)
    group = replace(table.group, run="second")
    hellos = []
    for name in (*THREE, TARGET):
        hellos.append(Hello(**json.loads(table.ask("query.hello", name, sums.Greet("small", group))["hello"])))
    with pytest.raises(Failed, match=r"^west: this model has entered group group-1 .* enters one sum only"):
        table.mask(hellos, group, site="west")


def test_a_target_opens_nothing_that_was_changed(hospitals, tmp_path):
    """Noise in place of one message is found at the target; the honest message is asked for again at the next start."""
    bad = [True]

    def change(kind, site, task, payload):
        if (kind, site) != ("query.mask", "south") or not bad:
            return None
        data = payload["message"]
        start = 8 + int.from_bytes(data[:8], "little")
        return task, {"message": data[:start] + bytes(byte ^ 0x5A for byte in data[start:])}

    path = plan(hospitals, [list(THREE)], name="changed.toml")
    with pytest.raises(CampaignStopped, match=r"harbour failed in query\.sum: .*did not cancel"):
        run(path, tmp_path, "imm-mode", on_the_way(change), nodes=4)
    assert not list((tmp_path / "sites/harbour/received").glob("*"))
    bad.clear()
    found = run(path, tmp_path, "imm-mode", nodes=4)
    assert {row["status"] for row in found["rows"]} == {"ok"}
    assert model(tmp_path, "group-1").site == "group-1"


def test_a_server_takes_no_message_of_another_member(hospitals, tmp_path):
    """Asked for twice and refused; the sentence names the site, what was expected and what came."""
    first = {}

    def change(kind, site, task, payload):
        if kind != "query.mask":
            return None
        first.setdefault("payload", payload)
        return task, first["payload"]

    path = plan(hospitals, [list(THREE)], name="another.toml")
    expected = r"south: members of the masked message expected \('south',\), got \('north',\)"
    with pytest.raises(Refused, match=expected):
        run(path, tmp_path, "imm-mode", on_the_way(change), nodes=4)


def test_the_records_of_sums_are_apart_again():
    """A group inside a task crosses the boundary as any record does."""
    group = sums.Group("r/0/1", "group-1", "sha256:0", {"north": UNIT}, TARGET)
    assert tasks.from_table(sums.Greet, tasks.to_table(sums.Greet("small", group)), "x") == sums.Greet("small", group)
    with pytest.raises(Refused, match="Group expected the fields"):
        tasks.from_table(sums.Greet, {"campaign": "small", "group": {**asdict(group), "more": 1}}, "x")
