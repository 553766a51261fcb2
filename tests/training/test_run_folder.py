import json

import pytest
from fake_run import config

from vitjax.errors import UserError
from vitjax.training.run_folder import drop_rows_after, open_run_folder, read_rows


def test_stores_the_config_and_takes_it_again(tmp_path):
    folder = open_run_folder(config(tmp_path))
    stored = json.loads(folder.config.read_text())
    assert stored["optimizer"]["lr"] == 0.01
    open_run_folder(config(tmp_path, steps=9, log_every=1, mesh={"data": -1, "fsdp": 1, "tensor": 1}))
    assert json.loads(folder.config.read_text())["steps"] == 9


def test_refuses_another_config(tmp_path):
    (open_run_folder(config(tmp_path)).checkpoints / "4").mkdir(parents=True)
    with pytest.raises(UserError, match=r"`clip_norm` was 1.0 and is None; `seed` was 0 and is 1; give another folder"):
        open_run_folder(config(tmp_path, seed=1, clip_norm=None))


def test_a_run_without_a_checkpoint_gives_way(tmp_path):
    open_run_folder(config(tmp_path))
    open_run_folder(config(tmp_path, seed=1))
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


def test_refuses_what_is_no_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        open_run_folder(config(tmp_path))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="is a file"):
        open_run_folder(config(file))


def test_only_one_process_writes(tmp_path):
    open_run_folder(config(tmp_path / "new"), write=False)
    assert not (tmp_path / "new").exists()


def test_rows_of_lost_steps_and_half_a_row_go(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 6)) + '{"step": 6, "lo')
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3, 4, 5]
    drop_rows_after(path, 3)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    drop_rows_after(tmp_path / "none.jsonl", 3)
