"""`esxprov install | uninstall` in a directory that looks like a management node, without its database."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from esxprov.cli import commands
from esxprov.errors import ConfigurationError
from esxprov.install import run, shipped
from esxprov.install.actions import Action
from esxprov.install.plan import Place, actions
from esxprov.install.system import DEBIAN, RED_HAT, system

MODULES = "usr/local/vcl/lib/VCL/Module/Provisioning"
UNIT = "etc/systemd/system/esxprov.service"
KEPT = {
    "etc/vcl/esxprov.conf",
    "etc/vcl/esxprov",
    "etc/vcl/esxprov/broker.password",
    "etc/vcl/esxprov/vcld.password",
    "etc/vcl/esxprov/cli.password",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a node has before, down to a directory that every node has."""
    for variable in [name for name in os.environ if name.startswith("ESXPROV_")]:
        monkeypatch.delenv(variable)
    for directory in (
        MODULES,
        "etc/systemd/system",
        "etc/vcl",
        "var/spool",
        "usr/local/share/man/man1",
        "usr/local/share/bash-completion/completions",
        "usr/local/share/zsh/site-functions",
    ):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / MODULES / "vbox.pm").write_text("package VCL::Module::Provisioning::vbox;\n")
    return tmp_path


@pytest.fixture(params=["--link", "--copy"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def esxprov(root: Path, *arguments: str) -> Result:
    name, *more = arguments
    return CliRunner().invoke(commands, [name, "--root", str(root), "--no-database", *more])


def install(root: Path, *more: str) -> list[str]:
    """The lines about the actions, of an installation that has gone well."""
    result = esxprov(root, "install", *more)
    assert result.exit_code == 0, result.output
    return [line for line in result.stdout.splitlines() if line[:2] in ("+ ", "= ")]


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Path -> mode, when it was changed, content or target."""
    found: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = path.readlink()
        elif path.is_file():
            content = path.read_bytes()
        changed = status.st_mtime_ns if content is not None else 0
        found[str(path.relative_to(root))] = (stat.S_IMODE(status.st_mode), changed, content)
    return found


def plan(root: Path, how: str) -> list[Action]:
    return actions(Place(root, system(root), copied=how == "--copy"), None)


def test_everything_is_in_its_place(root: Path, how: str) -> None:
    install(root, how)
    for module in shipped.modules():
        assert (root / "usr/local/vcl/lib" / module).read_text() == (shipped.shim() / module).read_text()
    assert re.search(r"^ExecStart=/.* serve$", (root / UNIT).read_text(), re.MULTILINE)
    conf = root / "etc/vcl/esxprov.conf"
    assert "[pool main]" in conf.read_text()
    modes = {path: stat.S_IMODE((root / path).stat().st_mode) for path in [*KEPT, UNIT, "var/spool/esxprov"]}
    assert {modes.pop(path) for path in KEPT - {"etc/vcl/esxprov"}} == {0o640}
    assert modes == {"etc/vcl/esxprov": 0o750, UNIT: 0o644, "var/spool/esxprov": 0o700}


def test_every_broker_user_has_a_password_of_its_own(root: Path) -> None:
    install(root)
    found = [path.read_text() for path in (root / "etc/vcl/esxprov").iterdir()]
    assert len(set(found)) == 3
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{32}", one) for one in found)


def test_installing_again_changes_nothing(root: Path, how: str) -> None:
    assert {line[0] for line in install(root, how)} == {"+"}
    before = tree(root)
    assert {line[0] for line in install(root, how)} == {"="}
    assert tree(root) == before


def test_a_dry_run_says_what_an_installation_then_does_and_changes_nothing(root: Path, how: str) -> None:
    before = tree(root)
    said = install(root, how, "--dry-run")
    assert tree(root) == before
    assert install(root, how) == said


def test_uninstalling_leaves_what_was_there_and_what_is_the_sites(root: Path, how: str) -> None:
    before = tree(root)
    install(root, how)
    installed = tree(root)
    said = esxprov(root, "uninstall", "--dry-run").stdout
    assert tree(root) == installed
    assert esxprov(root, "uninstall").stdout == said
    after = tree(root)
    assert {path: after.pop(path) for path in KEPT} == {path: installed[path] for path in KEPT}
    assert after == before


def test_uninstalling_a_linked_shim_leaves_the_packages_own_files(root: Path) -> None:
    before = [(shipped.shim() / module).stat().st_mtime_ns for module in shipped.modules()]
    assert len(before) > 5
    install(root, "--link")
    esxprov(root, "uninstall")
    assert [(shipped.shim() / module).stat().st_mtime_ns for module in shipped.modules()] == before
    assert not (root / MODULES / "esxprov").is_symlink()


def test_uninstalling_what_was_never_installed_changes_nothing(root: Path) -> None:
    before = tree(root)
    result = esxprov(root, "uninstall")
    assert (result.exit_code, {line[0] for line in result.stdout.splitlines()}) == (0, {"="})
    assert tree(root) == before


def test_an_installation_that_was_killed_anywhere_is_completed_by_the_next(tmp_path: Path, how: str) -> None:
    def fresh(name: str) -> Path:
        (tmp_path / name / MODULES).mkdir(parents=True)
        return tmp_path / name

    def shape(root: Path) -> dict[str, object]:
        passwords = {path for path in KEPT if path.endswith(".password")}
        return {path: (mode, path in passwords or what) for path, (mode, _, what) in tree(root).items()}

    whole = fresh("whole")
    list(run.install(plan(whole, how)))
    for count in range(len(plan(whole, how))):
        root = fresh(f"killed after {count}")
        list(run.install(plan(root, how)[:count]))
        assert [one.problem for one in run.install(plan(root, how))] == [None] * len(plan(root, how))
        assert shape(root) == shape(whole)


def test_a_file_that_cannot_be_put_in_place_is_there_as_before_and_nothing_is_left(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(root)
    (root / UNIT).write_text((root / UNIT).read_text() + "# of an older version\n")
    before = tree(root)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    result = esxprov(root, "install")
    assert result.exit_code == 1
    assert f"! file {root}/{UNIT}: [Errno 28] No space left on device" in result.stdout
    assert "not completed, for what the line with ! says" in result.stderr
    assert tree(root) == before


def test_what_the_site_has_changed_stays_and_what_an_older_version_has_put_is_replaced(root: Path) -> None:
    install(root)
    (root / "etc/vcl/esxprov.conf").write_text("[service]\n")
    (root / "etc/vcl/esxprov/vcld.password").write_text("ours")
    new = (root / UNIT).read_text()
    (root / UNIT).write_text(new + "# of an older version\n")
    link = root / MODULES / "esxprov.pm"
    link.unlink()
    link.symlink_to("/opt/old/bridge/perl/lib/VCL/Module/Provisioning/esxprov.pm")
    changed = [line for line in install(root) if line.startswith("+ ")]
    assert [line.split()[2] for line in changed] == [str(link), str(root / UNIT)]
    assert (root / "etc/vcl/esxprov.conf").read_text() == "[service]\n"
    assert (root / "etc/vcl/esxprov/vcld.password").read_text() == "ours"
    assert (root / UNIT).read_text() == new
    assert link.readlink() == shipped.shim() / shipped.PROVISIONERS / "esxprov.pm"


def test_copies_of_an_older_version_are_replaced(root: Path) -> None:
    install(root, "--copy")
    older = root / MODULES / "esxprov" / "Spool.pm"
    new = older.read_text()
    older.write_text(f"{new}# of an older version\n")
    assert len([line for line in install(root, "--copy") if line.startswith("+ ")]) == 1
    assert older.read_text() == new


def test_a_file_that_only_an_older_version_copied_goes_with_the_others_and_a_strangers_stays(root: Path) -> None:
    install(root, "--copy")
    folder = root / MODULES / "esxprov"
    (folder / "Older.pm").write_text("package VCL::Module::Provisioning::esxprov::Older;\n1;\n")
    (folder / "Local.pm").write_text("package Local;\n1;\n")
    esxprov(root, "uninstall")
    assert [path.name for path in folder.iterdir()] == ["Local.pm"]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (f"{MODULES}/esxprov.pm", "package Somebody::Else;\n"),
        (UNIT, "[Service]\nExecStart=/usr/bin/something else\n"),
        ("usr/local/share/man/man1/esxprov.1", ".TH OTHER 1\n"),
        ("etc/vcl/esxprov", "a file\n"),
        ("var/spool/esxprov", "a file\n"),
    ],
)
def test_with_a_strangers_file_in_the_way_nothing_is_done(root: Path, how: str, path: str, content: str) -> None:
    (root / path).write_text(content)
    before = tree(root)
    result = esxprov(root, "install", how)
    assert result.exit_code == 78
    assert re.search(rf"^! .*{re.escape(path)} is something else, expected .*: move it away$", result.stdout, re.M)
    assert "nothing was done" in result.stderr
    assert tree(root) == before


def test_a_strangers_file_survives_an_uninstallation(root: Path, how: str) -> None:
    install(root, how)
    (root / UNIT).write_text("[Service]\nExecStart=/usr/bin/something else\n")
    assert esxprov(root, "uninstall").exit_code == 0
    assert (root / UNIT).read_text() == "[Service]\nExecStart=/usr/bin/something else\n"
    assert not (root / MODULES / "esxprov.pm").exists()


def test_copies_are_not_written_through_a_link_into_the_package(root: Path) -> None:
    install(root, "--link")
    before = tree(root)
    result = esxprov(root, "install", "--copy")
    assert result.exit_code == 78
    assert f"{root}/{MODULES}/esxprov is a link to {shipped.shim()}" in result.stdout
    assert tree(root) == before


def test_without_vcls_code_it_says_which_option_names_it(root: Path) -> None:
    before = tree(root)
    result = esxprov(root, "install", "--vcl", "/opt/vcl")
    assert result.exit_code == 78
    assert f"{root}/opt/vcl/lib/VCL/Module/Provisioning is no directory" in result.stderr
    assert "--vcl" in result.stderr
    assert tree(root) == before


def test_roots_umask_hides_nothing_from_the_others(tmp_path: Path) -> None:
    (tmp_path / MODULES).mkdir(parents=True)
    before = os.umask(0o077)
    try:
        install(tmp_path, "--copy")
    finally:
        os.umask(before)
    for path in (f"{MODULES}/esxprov", "usr/local/share/man/man1", "etc/systemd"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o755, path
    for path in (f"{MODULES}/esxprov/Spool.pm", "usr/local/share/man/man1/esxprov.1", UNIT):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o644, path


@pytest.fixture
def red_hat(root: Path) -> Path:
    (root / "etc/os-release").write_text('NAME="Rocky Linux"\nID="rocky"\nID_LIKE="rhel centos fedora"\n')
    return root


def test_on_red_hats_family_paths_and_units_are_its_own(red_hat: Path) -> None:
    said = esxprov(red_hat, "install").stdout
    conf = (red_hat / "etc/vcl/esxprov.conf").read_text()
    assert "source = dhcpd:/var/lib/dhcpd/dhcpd.leases\n" in conf
    assert " dhcpd.service" in (red_hat / UNIT).read_text()
    assert "restorecon -R /etc/vcl/esxprov " in said


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("ID=debian\n", DEBIAN),
        ("ID=ubuntu\nID_LIKE=debian\n", DEBIAN),
        ("ID=fedora\n", RED_HAT),
        ('ID="almalinux"\nID_LIKE="rhel centos fedora"\n', RED_HAT),
        ("nonsense\n", DEBIAN),
    ],
)
def test_a_system_is_known_by_its_family(root: Path, release: str, expected: object) -> None:
    (root / "etc/os-release").write_text(release)
    assert system(root) is expected


def test_the_first_problem_ends_an_installation(root: Path) -> None:
    done: list[str] = []

    class Step:
        what = "a step"

        def __init__(self, name: str) -> None:
            self.name = name

        def is_done(self) -> bool:
            return False

        def do(self) -> None:
            if self.name == "two":
                raise ConfigurationError("it is in the way")
            done.append(self.name)

        def is_ours(self) -> bool:
            return True

        def undo(self) -> None:
            self.do()

    steps = [Step("one"), Step("two"), Step("three")]
    assert [one.sign for one in run.install(steps)] == ["+", "!"]
    assert done == ["one"]
    assert [one.sign for one in run.uninstall(steps)] == ["-", "!"]
    assert done == ["one", "three"]
