"""The configuration of `ray up`."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster" / "ray-up.yaml").read_text(encoding="utf-8")
CONFIG = yaml.safe_load(TEXT)


def test_ray_s_own_setup_is_off() -> None:
    """It would install another Ray."""
    assert CONFIG["setup_commands"] == CONFIG["initialization_commands"] == []
    assert CONFIG["head_node_type"] == "head"


def test_workers_are_spot_and_go_when_idle() -> None:
    workers = CONFIG["available_node_types"]["gpu-spot"]
    assert workers["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert 0 == workers["min_workers"] < workers["max_workers"] <= CONFIG["max_workers"]
    assert CONFIG["idle_timeout_minutes"] > 0


def test_the_head_computes_nothing_and_is_kept() -> None:
    head = CONFIG["available_node_types"]["head"]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]


def test_the_dashboard_is_reached_through_ssh_with_a_token_only() -> None:
    assert "--dashboard-host=127.0.0.1" in CONFIG["head_start_ray_commands"][-1]
    assert "0.0.0.0" not in TEXT
    assert "--env RAY_AUTH_MODE=token" in CONFIG["docker"]["run_options"]
    assert "/home/freqbench/.ray/auth_token" in CONFIG["file_mounts"]


def test_no_credentials_stand_in_it() -> None:
    assert not re.search(r"(?i)(secret|access_key|password)\s*[:=]|AKIA[0-9A-Z]{16}", TEXT)
