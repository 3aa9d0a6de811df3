"""SageMaker integration: what a job prints reaches CloudWatch soon, in lines, without secrets."""

import pytest

from splatgate.container.secrets import SHAPES
from splatgate.expectations import CANARY, FIRST_LINE
from splatgate.judge.fixtures.jobs import TRAINS
from splatgate.sagemaker.result import metric_points


@pytest.mark.sagemaker_logs
@pytest.mark.needs(TRAINS)
def test_progress_is_logged_as_it_happens(trained, profile, request_given):
    """Progress lines match the metric definitions, one by one and while training goes on.

    Output held until exit shows no line for an hour and then twenty (K28); a regular expression
    that never matches gives an empty metric (contract 1.2, trap 31).
    """
    for metric in (*profile.log.progress, *request_given.metrics):
        points = metric_points(trained.log, (metric,))
        times = [point.seconds for point in points]
        assert len(times) > 1, f"metric {metric.name}: {len(times)} lines match {metric.regex!r}"
        assert len(set(times)) > 1, f"metric {metric.name}: all lines came at once; flush each line"


@pytest.mark.sagemaker_logs
@pytest.mark.needs(TRAINS)
def test_first_line_comes_within_seconds(trained):
    """The first line of output comes within a minute of the container's start.

    The log stream exists only from then on (contract 1.2); a job that says nothing for long is
    taken for one that hangs (K28).
    """
    first = trained.log[0].seconds if trained.log else float("inf")
    assert first <= FIRST_LINE, f"the first line came after {first:.0f} s; say first what starts"


@pytest.mark.sagemaker_logs
@pytest.mark.needs(TRAINS)
def test_log_is_made_of_lines(trained):
    """No line of the log holds carriage returns: progress bars are for terminals.

    What a bar overwrites is one endless event for CloudWatch, and no metric is found in it
    (contract 7.1, Metrics).
    """
    odd = [line.text for line in trained.log if "\r" in line.text.rstrip("\r")]
    assert not odd, f"{len(odd)} lines with carriage returns: {odd[0][:80]!r}; print lines"


@pytest.mark.sagemaker_logs
@pytest.mark.needs("test_parameters_from_the_environment_mean_the_same")
def test_log_repeats_no_secret(by_environment):
    """Neither the log nor the failure text holds a secret of the job's environment.

    Whoever may read CloudWatch, or the execution's history, reads it too (contract 1.3).
    """
    text = f"{by_environment.text}\n{by_environment.failure or ''}"
    told = [name for name, value in CANARY.items() if value in text]
    told += [shape.name for shape in SHAPES if shape.pattern.search(text)]
    assert not told, f"the log holds {', '.join(told)}; print names of variables, not values"
