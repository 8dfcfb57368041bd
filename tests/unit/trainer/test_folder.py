from datetime import UTC, datetime

import pytest

from nanwatch.trainer.folder import claim, place_of, run_name, unique

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}


def never():
    raise AssertionError("the ranks were asked to agree, and need not")


def test_a_process_without_a_launcher_is_alone():
    place = place_of({}, None, never)
    assert (place.rank, place.world_size, place.launch, place.starts_agent) == (0, 1, None, True)
    assert run_name(place, NOW).startswith("20260504T030201-")


def test_the_process_group_wins_over_the_environment():
    place = place_of(TORCHRUN, (1, 2), never)
    assert (place.rank, place.world_size) == (1, 2)


def test_the_environment_tells_before_there_is_a_group():
    place = place_of({**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}, None, never)
    assert (place.rank, place.local_rank, place.world_size, place.starts_agent) == (3, 1, 4, False)
    assert place.launch.startswith("a-29500-")


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"TORCHELASTIC_RUN_ID": "my job/1"}, "launch-my-job-1"),
        ({"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}, "launch-77.0"),
        ({"SLURM_JOB_ID": "77"}, "launch-77"),
    ],
)
def test_the_launchers_id_names_the_folder(environ, name):
    assert run_name(place_of({**TORCHRUN, **environ}, None, never), NOW) == name


def test_a_job_of_one_process_has_a_name_of_its_own():
    assert place_of({"SLURM_JOB_ID": "77", "WORLD_SIZE": "1"}, None, never).launch is None


def test_ranks_without_anything_in_common_agree_on_an_id():
    place = place_of({}, (1, 2), lambda: unique(NOW))
    assert not place.starts_agent
    assert run_name(place, NOW).startswith("launch-20260504T030201-")


def test_ranks_that_cannot_be_asked_have_a_folder_each():
    place = place_of({}, (1, 2), lambda: None)
    assert place.starts_agent
    assert run_name(place, NOW).startswith("20260504T030201-")


def test_one_of_several_gets_the_claim(tmp_path):
    assert [claim(tmp_path / "run.json") for _ in range(3)] == [True, False, False]
    assert not claim(tmp_path / "nowhere" / "run.json")
