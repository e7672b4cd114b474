"""What the comment at the top of a rewritten config states, against the masks as they are."""

import pytest

from cerebras_utils.checks.registry import NotMade
from cerebras_utils.rewriting.header import header_lines
from cerebras_utils.rewriting.request import read_masks


def header(path):
    return "".join(f"{line}\n" for line in header_lines("wafersparse config base.yaml", read_masks(path)))


def test_the_header_of_these_masks_is_sound(run):
    text = header(run.bench.masks)
    assert run.check("masks.stated_digest", header=text) == []
    assert run.check("masks.stated_sparsity", header=text) == []


def test_another_mask_file_is_found_at_the_line_that_names_it(run):
    text = header(run.bench.write_masks("header_of_others", kept=lambda numel: numel // 4))
    (digest,) = run.check("masks.stated_digest", header=text)
    (sparsity,) = run.check("masks.stated_sparsity", header=text)
    assert "another file" in digest.what
    assert digest.where.endswith("config.yaml:3")
    assert sparsity.what == "the header says a sparsity of 0.750000, and the masks drop 0.500000"


def test_a_header_of_something_else_states_nothing(run):
    with pytest.raises(NotMade, match="states no digest"):
        run.check("masks.stated_digest", header="# sparsity 0.9 of weights, sha256 of nothing\n")
    assert run.check("masks.stated_sparsity", header="# wafersparse is not needed here\n") == []


def test_a_comment_further_down_is_no_header(run):
    path = run.bench.write_masks("further_down", kept=lambda numel: numel // 4)
    run.config = {"trainer": run.config["trainer"]}
    text = "trainer_of_nobody: 1\n" + header(path)
    with pytest.raises(NotMade, match="states no digest"):
        run.check("masks.stated_digest", header=text)
