def test_a_folder_of_somebody_else_is_a_wrong_call(nanwatch, home):
    (home / "nanwatch-demo").mkdir()
    (home / "nanwatch-demo" / "thesis.tex").write_text("x")
    result = nanwatch("demo")
    assert result.exit_code == 2
    assert "--dir" in result.stderr
    assert [path.name for path in (home / "nanwatch-demo").iterdir()] == ["thesis.tex"]


def test_a_demo_that_failed_says_what_is_missing_and_ends_with_1(home, nanwatch, monkeypatch):
    from nanwatch.demo import run
    from nanwatch.demo.training import train

    def broken(workspace, variables, say):
        workspace.script.write_text("raise SystemExit('boom')")
        return train(workspace, variables, say)

    monkeypatch.setattr(run, "train", broken)
    result = nanwatch("demo", "--dir", "here")
    assert result.exit_code == 1
    assert "boom" in result.stderr
    assert "missing: the training ended with exit code 1" in result.stdout
    assert "all there" not in result.stdout
