"""The configuration: what is refused says why, in the words of the file."""

import os
from pathlib import Path

import pytest

from popsteer import config_file
from popsteer.config import Config, host_port
from popsteer.errors import ConfigError

BAD = sorted((Path(__file__).parent / "bad_configs").glob("*.toml"))
SAYS = "# says: "

SMALLEST = """
[dns]
[[pop]]
id = "fra1"
ipv4 = ["192.0.2.1"]
[[pop]]
id = "ams1"
[[pop.link]]
id = "amsix"
capacity_bps = 4e10
[[service]]
name = "www.cdn.example."
[[service]]
name = "video.cdn.example."
pops = ["ams1"]
"""


def _load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "popsteer.toml"
    path.write_text(text)
    return config_file.load(path)


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_files_are_refused_in_plain_words(path: Path) -> None:
    says = path.read_text().splitlines()[0]
    assert says.startswith(SAYS)
    with pytest.raises(ConfigError) as refused:
        config_file.load(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert says.removeprefix(SAYS) in message
    assert "\n" not in message


def test_the_smallest_file_has_defaults_for_all_else(tmp_path: Path) -> None:
    config = _load(tmp_path, SMALLEST)
    fra1, ams1 = config.pop_ids()
    www, video = config.service
    assert config.pops_of(www) == [fra1, ams1]
    assert config.pops_of(video) == [ams1]
    assert [(one.id, one.capacity_bps) for one in config.pop[1].link] == [("amsix", 4e10)]
    assert config.health is None
    assert config.dns.addresses == [("127.0.0.1", 5300)]


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = _load(tmp_path, 'data = "kept"')
    assert config.data_dir == tmp_path / "kept"
    assert config.path("/absolute") == Path("/absolute")


def test_listen_takes_a_list_of_both_families(tmp_path: Path) -> None:
    config = _load(tmp_path, '[dns]\nlisten = ["0.0.0.0:53", "[::1]:0"]')
    assert config.dns.addresses == [("0.0.0.0", 53), ("::1", 0)]


@pytest.mark.parametrize("text", ["", ":53", "host", "host:", "host:x", "host:65536", "h:-1"])
def test_what_is_no_address_names_its_key(text: str) -> None:
    with pytest.raises(ConfigError, match=r"console\.listen = .*: write HOST:PORT"):
        host_port(text, "console.listen")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(ConfigError, match="no such file") as refused:
        config_file.load(path)
    assert str(path) in str(refused.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        config_file.load(tmp_path)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.toml"
    path.write_text("")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user reads every file")
    with pytest.raises(ConfigError, match="no permission"):
        config_file.load(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        config_file.load(path)
