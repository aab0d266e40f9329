"""The command that says what conditions cost."""

from scripts import open_script
from test_body_methods import pipeline


def test_a_control_net_costs_each_step_and_body_features_once(tmp_path, capsys):
    for name in ("body_features", "body_control"):
        pipeline(name).save_pretrained(tmp_path / name)
    folders = [str(tmp_path / name) for name in ("body_features", "body_control")]
    assert open_script("eval/step_cost").main([*folders, "--turns", "1"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    features, control = ([float(cell.replace(",", "")) for cell in row[1:]] for row in rows)
    assert control[4] > features[4]  # GFLOP of a step
    assert features[1] > 0
    assert control[0] > features[0] > 0


def test_a_folder_without_a_pipeline_is_named(tmp_path, capsys):
    assert open_script("eval/step_cost").main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
