from __future__ import annotations

from pathlib import Path

import pytest

from esxprov import config
from esxprov.config import LeaseFileConfig, load_publisher
from esxprov.errors import ConfigurationError
from esxprov.install import shipped
from esxprov.model import ClusterAffinity, DiskMode, SlotRules


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    path = tmp_path / "esxprov.conf"
    path.write_text(
        f"""
# what a site writes
[service]
management_node = mn1
[broker]
url = amqp://esxprov@127.0.0.1:5672/
password_file = {secret}
[vcld]
url = amqp://vcld@127.0.0.1:5672/
password_file = {secret}
spool = /var/spool/esxprov
[database]
host = 127.0.0.1
user = vcl
password_file = {secret}
[leases]
source = dhcpd:/var/lib/dhcp/dhcpd.leases
[endpoint esx1]
url = https://esx1.example.org/sdk
user = svc
password_file = {secret}
[pool main]
endpoints = esx1
profile = blades
disk = linked
"""
    )
    return path


def load(path: Path, *overrides: str, **environment: str) -> config.Config:
    return config.load(environment, overrides, path=path, vcld_conf=path.parent / "no-vcld.conf")


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_a_file_is_read(conf: Path) -> None:
    found = load(conf)
    assert found.service.management_node == "mn1"
    assert found.broker.user == "esxprov"
    assert found.endpoints["esx1"].password == "s3cret"
    assert found.pools["main"].disk is DiskMode.LINKED
    assert found.publishers == {"vcld", "esxprov"}


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(conf: Path) -> None:
    assert load(conf, ESXPROV_SERVICE_WORKERS_SLOW="3").service.workers_slow == 3
    assert load(conf, "service.workers_slow=5", ESXPROV_SERVICE_WORKERS_SLOW="3").service.workers_slow == 5
    assert load(conf, ESXPROV_ENDPOINT_ESX1_URL="https://other/sdk").endpoints["esx1"].url == "https://other/sdk"


def test_esxprov_conf_names_the_file(conf: Path) -> None:
    assert config.load({"ESXPROV_CONF": str(conf)}, vcld_conf=conf.parent / "none").path == conf


def test_a_node_that_runs_vcld_needs_no_database_section(conf: Path) -> None:
    edit(conf, "[database]\nhost = 127.0.0.1\nuser = vcl\n", "[cli]\nurl = amqp://cli@127.0.0.1/\n")
    vcld = conf.parent / "vcld.conf"
    vcld.write_text("server=localhost;mysql_socket=/run/db.sock\nLockerWrtUser=writer\nwrtPass=p\ndatabase=vcl2\n")
    found = config.load({}, path=conf, vcld_conf=vcld).database
    assert (found.unix_socket, found.user, found.password, found.name) == ("/run/db.sock", "writer", "p", "vcl2")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("management_node = mn1", "managment_node = mn1", "did you mean 'management_node'"),
        ("[service]", "[servise]", r"no section \[servise\], did you mean 'service'"),
        ("[pool main]", "[pool]", r"no section \[pool\]"),
        ("management_node = mn1", "workers_slow = many", "expected a whole number from 1 to 256"),
        ("management_node = mn1", "management_node = mn1.example.org", "without dots"),
        ("url = amqp://vcld@127.0.0.1:5672/", "url = http://x/", r"\[vcld\] url"),
        ("url = amqp://vcld@127.0.0.1:5672/", "url = amqp://vcld:hunter2@127.0.0.1/", "holds a password"),
        ("url = amqp://vcld@127.0.0.1:5672/", "url = amqp://vcld@mq.example.org/", r"\[vcld\] url .* in the clear"),
        ("url = https://esx1.example.org/sdk", "url = http://esx1.example.org/sdk", "expected https://host/sdk"),
        ("endpoints = esx1", "endpoints = esx1, esx2", r"no section \[endpoint esx2\]"),
        ("disk = linked", "disk = thick", "expected copy or linked"),
        ("disk = linked", "golden = ../golden", "expected a directory on the datastore"),
        ("disk = linked", "policy = dense", "expected pack or spread"),
        ("disk = linked", "n_plus_one = 1", "expected yes or no"),
        ("disk = linked", "recover = yes", "expected power-on or register or no"),
        ("disk = linked", "cluster_max_per_host = -1", "expected a whole number from 0 to 1000"),
        ("disk = linked", "cluster_affinity = near", "expected none or prefer-apart or prefer-together or apart or"),
        ("disk = linked", "image_hosts = gpu-*", r"has the rule 'gpu-\*', expected a pattern and names of"),
        ("disk = linked", "image_hosts = a b: blade1", "expected a pattern and names of hosts"),
        ("profile = blades", "", r"\[pool main\] profile is missing"),
        ("source = dhcpd:", "source = file:", "has .*file:.*expected dhcpd:/path.* kea:/path.* dnsmasq:/path"),
        ("source = dhcpd:", "omapi = localhost\nsource = dhcpd:", "omapi is 'localhost', expected a host and a port"),
        ("source = dhcpd:", "omapi = 127.0.0.1:7911\nsource = kea:", "only dhcpd speaks OMAPI"),
        ("source = dhcpd:", "source = tools:, x:", "expected dhcpd:/path"),
        ("user = svc", "user = svc\nthumbprint = 00:11", "64 hexadecimal digits"),
        ("disk = linked", "disk = linked\n[pool other]\nendpoints = esx1\nprofile = blades", "belongs to one pool"),
        ("[service]", "nonsense", "is not an INI file"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it(conf: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        load(edit(conf, old, new))
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("kind", ["dhcpd", "kea", "dnsmasq"])
def test_leases_come_from_the_server_that_the_source_names(conf: Path, kind: str) -> None:
    leases = load(edit(conf, "source = dhcpd:", f"source = {kind}:")).leases
    assert leases.files == (LeaseFileConfig(kind, Path("/var/lib/dhcp/dhcpd.leases")),)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read .* or name another file in ESXPROV_CONF"):
        load(tmp_path / "none.conf")


def test_a_password_file_that_everybody_may_read_is_refused(conf: Path) -> None:
    (conf.parent / "secret").chmod(0o644)
    with pytest.raises(ConfigurationError, match="everybody may read"):
        load(conf)


def test_no_secret_is_shown_when_the_configuration_is_printed(conf: Path) -> None:
    assert "s3cret" not in repr(load(conf))


def test_an_override_without_a_section_is_refused(conf: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"section\.key=value"):
        load(conf, "workers_slow=4")


# --- http ------------------------------------------------------------------------------------------------------------


def test_nothing_is_answered_over_http_unless_there_is_a_section(conf: Path) -> None:
    assert load(conf).http is None


def test_on_loopback_no_token_is_needed(conf: Path) -> None:
    found = load(conf, "http.listen=127.0.0.1:8787")
    assert found.http == config.HttpConfig("127.0.0.1", 8787)
    assert load(conf, "http.listen=[::1]:8787").http == config.HttpConfig("::1", 8787)


@pytest.mark.parametrize("listen", ["0.0.0.0:8787", "10.1.2.3:8787", "[::]:8787"])
def test_elsewhere_a_token_is_needed(conf: Path, listen: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\[http\] token_file is missing: .* can be reached from elsewhere"):
        load(conf, f"http.listen={listen}")
    token = conf.parent / "token"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o600)
    found = load(conf, f"http.listen={listen}", f"http.token_file={token}").http
    assert found is not None
    assert found.token == "0123456789abcdef"
    assert "0123456789abcdef" not in repr(found)


@pytest.mark.parametrize("content", ["", "short", "0123456789abcdef 0123456789abcdef", "0123456789abcdéf"])
def test_a_token_must_be_one(conf: Path, content: str) -> None:
    token = conf.parent / "token"
    token.write_text(content)
    token.chmod(0o600)
    with pytest.raises(ConfigurationError, match=r"\[http\] token_file holds no token"):
        load(conf, "http.listen=127.0.0.1:8787", f"http.token_file={token}")


@pytest.mark.parametrize("listen", ["8787", "localhost:8787", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:x", "::1:99999"])
def test_where_to_listen_is_an_address_and_a_port(conf: Path, listen: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\[http\] listen is .*, expected an address and a port"):
        load(conf, f"http.listen={listen}")


def test_a_pool_s_wishes_for_placement_are_read(conf: Path) -> None:
    pool = load(
        conf,
        "pool main.policy=spread",
        "pool main.n_plus_one=yes",
        "pool main.cluster_max_per_host=2",
        "pool main.cluster_affinity=prefer-apart",
        "pool main.image_hosts=gpu-*: blade1 blade2; win*:blade3",
    ).pools["main"]
    assert (pool.policy, pool.n_plus_one, pool.cluster_max_per_host) == ("spread", True, 2)
    assert pool.cluster_affinity is ClusterAffinity.PREFER_APART
    assert pool.image_hosts == (("gpu-*", ("blade1", "blade2")), ("win*", ("blade3",)))


def test_without_wishes_vms_of_a_request_go_anywhere(conf: Path) -> None:
    pool = load(conf).pools["main"]
    assert (pool.policy, pool.n_plus_one, pool.cluster_max_per_host) == ("pack", False, None)
    assert (pool.cluster_affinity, pool.image_hosts) == (ClusterAffinity.NONE, ())


def test_guests_are_asked_beside_a_lease_file_and_dhcpd_by_omapi(conf: Path) -> None:
    leases = load(conf, "leases.source=dhcpd:/var/lib/dhcp/dhcpd.leases, tools:", "leases.omapi=127.0.0.1:7911").leases
    assert (str(leases), leases.guests) == ("dhcpd:/var/lib/dhcp/dhcpd.leases, tools:", True)
    assert leases.omapi == ("127.0.0.1", 7911)
    assert not load(conf).leases.guests


def test_leases_may_come_from_several_places(conf: Path) -> None:
    leases = load(conf, "leases.source=bus:, kea:/var/lib/kea/kea-leases4.csv,dnsmasq:/tmp/dnsmasq.leases").leases
    assert [file.kind for file in leases.files] == ["kea", "dnsmasq"]
    assert (leases.bus, leases.guests, leases.publisher) == (True, False, "esxprov-leases")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("leases.source=tools:", "VMware Tools alone are no source"),
        ("leases.source=bus:, isc:/x", "has 'isc:/x', expected dhcpd:/path"),
        ("leases.source=dhcpd:relative", "has 'dhcpd:relative'"),
        ("leases.source=", r"\[leases\] source is missing"),
    ],
)
def test_a_source_of_leases_that_is_none_is_refused(conf: Path, override: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        load(conf, override)


@pytest.mark.parametrize("setting", ["conf=/etc/dhcp/dhcpd.conf", "omapi=127.0.0.1:7911"])
def test_what_only_dhcpd_has_is_refused_without_its_file(conf: Path, setting: str) -> None:
    with pytest.raises(ConfigurationError, match="dhcpd"):
        load(conf, "leases.source=bus:", f"leases.{setting}")


def test_a_publisher_needs_the_broker_and_its_leases_only(tmp_path: Path, conf: Path) -> None:
    path = tmp_path / "publisher.conf"
    path.write_text(
        "[leases]\nsource = dhcpd:/var/lib/dhcp/dhcpd.leases\n"
        f"[publisher]\nurl = amqps://esxprov-leases@mn1/\npassword_file = {conf.parent / 'secret'}\n"
    )
    config = load_publisher({}, path=path)
    assert (config.broker.user, str(config.leases)) == ("esxprov-leases", "dhcpd:/var/lib/dhcp/dhcpd.leases")
    with pytest.raises(ConfigurationError, match="no lease file here to publish from"):
        load_publisher({}, ["leases.source=bus:"], path=path)
    with pytest.raises(ConfigurationError, match=r"\[publisher\] url is missing"):
        load_publisher({}, path=conf)


# --- what is in effect, and who says so ------------------------------------------------------------------------------


def settings(found: config.Config) -> dict[str, tuple[str | None, str]]:
    """Text and origin of each setting; every one appears once."""
    names = [one.name for one in found.effective]
    assert len(names) == len(set(names))
    return {one.name: (one.text, one.origin) for one in found.effective}


def test_every_setting_in_effect_says_who_gave_it(conf: Path) -> None:
    found = settings(load(conf, "pool main.policy=spread", ESXPROV_SERVICE_JOURNAL_DAYS="7"))
    lines = conf.read_text().splitlines()
    assert found["service.management_node"] == ("mn1", f"{conf}:{lines.index('management_node = mn1') + 1}")
    assert found["pool main.disk"] == ("linked", f"{conf}:{lines.index('disk = linked') + 1}")
    assert found["service.journal_days"] == ("7", "ESXPROV_SERVICE_JOURNAL_DAYS")
    assert found["pool main.policy"] == ("spread", "--set")
    assert found["pool main.cpu_ratio"] == ("4.0", "default")
    assert found["pool main.cluster"] == (None, "default")
    assert found["cli.url"] == ("amqp://esxprov@127.0.0.1:5672/", "[broker] url")


def test_the_line_of_a_setting_is_its_own_also_where_its_name_is_in_two_sections_and_lines_go_on(conf: Path) -> None:
    edit(conf, "disk = linked", "image_hosts = gpu-*: blade1;\n   win-*: blade2\nDISK = linked  # [vcld]")
    found = settings(load(conf))
    lines = conf.read_text().splitlines()
    assert found["pool main.disk"] == ("linked", f"{conf}:{lines.index('DISK = linked  # [vcld]') + 1}")
    urls = [f"{conf}:{number}" for number, line in enumerate(lines, start=1) if line.startswith("url")]
    assert [found[f"{section}.url"][1] for section in ("broker", "vcld", "endpoint esx1")] == urls


def test_a_setting_of_the_default_section_is_found_on_its_line(conf: Path) -> None:
    secret = conf.parent / "secret"
    conf.write_text(
        f"[DEFAULT]\npassword_file = {secret}\n[broker]\nurl = amqp://esxprov@127.0.0.1/\n"
        "[endpoint esx1]\nurl = https://esx1/sdk\nuser = svc\n"
    )
    found = settings(load(conf))
    assert found["broker.password_file"][1] == found["endpoint esx1.password_file"][1] == f"{conf}:2"


def test_no_setting_shows_a_secret(conf: Path) -> None:
    vcld = conf.parent / "vcld.conf"
    vcld.write_text("server=db.example.org\nLockerWrtUser=writer\nwrtPass=hunter2\ndatabase=vcl\n")
    edit(conf, "[database]\nhost = 127.0.0.1\nuser = vcl\npassword_file = " + str(conf.parent / "secret"), "[database]")
    edit(conf, "https://esx1", "https://root:hunter3@esx1")
    loaded = config.load({}, path=conf, vcld_conf=vcld)
    found = settings(loaded)
    assert loaded.database.password == "hunter2"
    assert found["database.password_file"] == ("***", str(vcld))
    assert found["database.host"] == ("db.example.org", str(vcld))
    assert found["broker.password_file"][0] == f"{conf.parent}/secret (***)"
    assert found["endpoint esx1.url"][0] == "https://root:***@esx1.example.org/sdk"
    shown = repr(loaded.effective)
    assert not [secret for secret in ("hunter2", "hunter3", "s3cret") if secret in shown]


def test_an_empty_secret_is_told_from_one_that_is_not(conf: Path) -> None:
    (conf.parent / "secret").write_text("\n")
    assert settings(load(conf))["broker.password_file"][0] == f"{conf.parent}/secret (empty)"


def test_every_key_that_may_be_set_is_among_the_settings_in_effect(conf: Path) -> None:
    token = conf.parent / "token"
    token.write_text("x" * 32)
    token.chmod(0o600)
    conf.write_text(
        conf.read_text() + f"[http]\nlisten = 127.0.0.1:8787\ntoken_file = {token}\n[cli]\nurl = amqp://c@127.0.0.1/\n"
        f"password_file = {token}\n[publisher]\nurl = amqp://p@127.0.0.1/\npassword_file = {token}\n{SLOTS}"
    )
    found = load(conf)
    shown = {(one.section.partition(" ")[0], one.key) for one in found.effective}
    known = {(section, key) for section, keys in config._SCHEMA.keys.items() for key in keys}
    assert known - shown == {("publisher", "ca_file")}, "only what another program reads, and nobody has set"
    assert shown <= known


def test_a_database_host_is_meant_though_vcld_uses_a_socket(conf: Path) -> None:
    vcld = conf.parent / "vcld.conf"
    vcld.write_text("server=localhost;mysql_socket=/run/db.sock\n")
    assert config.load({}, path=conf, vcld_conf=vcld).database.unix_socket is None


# --- [slots POOL] ----------------------------------------------------------------------------------------------------

SLOTS = "\n[slots main]\nnames = VM###.vcl.example.org\nmacs = 00-50-56-01-00-00\n"


def with_slots(path: Path, more: str = "", text: str = SLOTS) -> Path:
    path.write_text(path.read_text() + text + more)
    return path


def test_the_slots_of_a_pool_need_names_and_a_first_mac_address(conf: Path) -> None:
    assert load(conf).pools["main"].slots is None
    rules = load(with_slots(conf, "groups = A, b, A\n")).pools["main"].slots
    assert rules is not None
    assert (rules.names, rules.first_mac, rules.most) == ("vm###.vcl.example.org", 0x005056010000, 500)
    assert rules.pool_host == "esxprov-main.vcl.example.org"
    assert (rules.groups, rules.host_groups) == (("A", "b"), ("allComputers",))
    assert (rules.schedule, rules.owner, rules.procspeed, rules.network) == ("VCL 24x7", "admin", 10000, 10000)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("most = 1000", r"names is 'vm###.vcl.example.org': ### has no room for number 1000"),
        ("most = 0", r"most is '0', expected a whole number from 1 to 10000"),
        ("procspeed = 20000", r"procspeed is '20000', expected a whole number from 500 to 10000"),
        ("network = 2500", r"network is '2500', expected 10 or 100 or 1000 or 10000"),
        ("pool_host = pool", r"pool_host is 'pool': 'pool' has no domain.*; set it to another name"),
        ("every = 5", r"\[slots main\] has no key 'every'"),
    ],
)
def test_settings_of_slots_that_cannot_be_are_refused(conf: Path, more: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        load(with_slots(conf, more))


@pytest.mark.parametrize("macs", ["00:50:56:40:00:00", "00:0c:29:00:00:00", "00:50:56:01:00", "rubbish"])
def test_a_first_mac_address_that_vmware_does_not_leave_for_static_use_is_refused(conf: Path, macs: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"macs is '{macs}', expected the first MAC address, from 00:50"):
        load(with_slots(conf), f"slots main.macs={macs}")


def test_the_last_mac_address_of_the_slots_must_be_for_static_use_too(conf: Path) -> None:
    with_slots(conf)
    load(conf, "slots main.macs=00:50:56:3f:fc:18")
    with pytest.raises(ConfigurationError, match=r"macs and most = 500 reach over 00:50:56:3f:ff:ff"):
        load(conf, "slots main.macs=00:50:56:3f:fc:19")


def test_slots_of_a_pool_that_there_is_not_are_refused(conf: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\[slots mian\] names is of a pool that there is not"):
        load(with_slots(conf, text=SLOTS.replace("main", "mian")))


def test_slots_of_two_pools_must_not_share_mac_addresses(conf: Path) -> None:
    more = "[pool two]\nendpoints = esx1\nprofile = racks\n[slots two]\nnames = x###.example.org\nmacs = "
    with pytest.raises(ConfigurationError, match=r"\[slots main\] has the MAC addresses up to 00:50:56:01:03:e7"):
        load(with_slots(conf, more + "00:50:56:01:03:e7\n"))
    load(edit(conf, "macs = 00:50:56:01:03:e7", "macs = 00:50:56:01:03:e8"))


def test_the_sample_of_slots_is_one_that_works(conf: Path) -> None:
    sample = shipped.text("esxprov.conf").partition("# [slots main]\n")[2]
    keys = [line.removeprefix("# ") for line in sample.splitlines() if " = " in line]
    given = load(with_slots(conf, text="\n[slots main]\n" + "\n".join(keys))).pools["main"].slots
    usual = load(edit(conf, "\n".join(keys[2:]), "")).pools["main"].slots
    assert given == usual
    assert len(keys) == len(SlotRules.__dataclass_fields__)
