"""Counters of the hardware, read from files and a program as they are found."""

from __future__ import annotations

from nanwatch.postmortem.hardware import counted_errors, describe_hardware


def test_counters_of_the_hosts_memory(tmp_path):
    for name, corrected, uncorrected in (("mc0", "3\n", "0\n"), ("mc1", "0\n", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ce_count").write_text(corrected)
        if uncorrected is not None:
            (tmp_path / name / "ue_count").write_text(uncorrected)
    (tmp_path / "power").mkdir()
    assert describe_hardware(ask_devices=False, edac=tmp_path) == {
        "memory": [
            {"controller": "mc0", "corrected": 3, "uncorrected": 0},
            {"controller": "mc1", "corrected": 0, "uncorrected": None},
        ],
        "devices": None,
    }


def program(tmp_path, text):
    file = tmp_path / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o700)
    return str(file)


def test_counters_of_devices(tmp_path):
    smi = program(tmp_path, 'case "$1" in --query-gpu=index,*) printf "0, 0, 2, 61\\n1, [N/A], [N/A], 40\\n" ;; esac')
    devices = describe_hardware(ask_devices=True, edac=tmp_path, program=smi)["devices"]
    assert devices == [
        {"index": 0, "corrected": 0, "uncorrected": 2, "temperature_c": 61},
        {"index": 1, "corrected": None, "uncorrected": None, "temperature_c": 40},
    ]


def test_a_program_that_fails_or_is_not_there(tmp_path):
    broken = program(tmp_path, "exit 9")
    assert describe_hardware(ask_devices=True, edac=tmp_path, program=broken)["devices"] is None
    assert describe_hardware(ask_devices=True, edac=tmp_path, program="no-such-program")["devices"] is None


def test_nobody_is_asked_without_need(tmp_path):
    smi = program(tmp_path, f"touch {tmp_path}/asked; echo 0, 0, 0, 40")
    describe_hardware(ask_devices=False, edac=tmp_path, program=smi)
    assert not (tmp_path / "asked").exists()


def test_errors_are_counted_over_host_and_devices():
    memory = [{"controller": "mc0", "corrected": 2, "uncorrected": None}]
    devices = [{"index": 0, "corrected": None, "uncorrected": 1, "temperature_c": 50}]
    assert counted_errors({"memory": memory, "devices": devices}) == 3
    assert counted_errors({"memory": [], "devices": None}) == 0
