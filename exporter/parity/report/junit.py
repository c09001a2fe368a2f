"""A parity result as JUnit XML: a suite for each data set, a case for each output, layer, decision.

The elements and attributes are those of the schema that Jenkins publishes for JUnit
(https://github.com/jenkinsci/xunit-plugin, junit-10.xsd), which the usual viewers read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from exporter.parity.limits import Level
from exporter.parity.report.text import compared, layer_line, number, permitted, verdicts
from exporter.parity.result import EXPORT, Check, DataSetResult, ParityResult

_NAME = "deb-export parity"
# Characters that XML 1.0 has no way to write; see https://www.w3.org/TR/xml/#charsets.
_FORBIDDEN = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


def to_junit(result: ParityResult) -> str:
    """The result as an XML document."""
    root = Element("testsuites", name=_NAME)
    suites = [_general(root, result)]
    suites += [_suite(root, result, item) for item in result.data_sets]
    for key in ("tests", "failures"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    root.set("errors", "0")
    root.set("time", f"{sum(result.seconds.values()):.3f}")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _general(root: Element, result: ParityResult) -> Element:
    """The suite of what is not about a data set: files, whether there were layers."""
    suite = SubElement(root, "testsuite", name=_NAME)
    properties = SubElement(suite, "properties")
    facts = {
        "reference": f"{result.reference.name} ({result.reference.runtime})",
        "candidate": f"{result.candidate.name} ({result.candidate.runtime})",
        "limits": result.limits.precision,
        "judged by": result.judged_by,
        "layers": layer_line(result),
        **{f"environment.{name}": value for name, value in result.environment.items()},
    }
    for name, value in facts.items():
        SubElement(properties, "property", name=name, value=_clean(value))
    case = SubElement(suite, "testcase", classname=_NAME, name="files", time="0")
    of_batches = {problem for item in result.data_sets for problem in item.problems}
    problems = [problem for problem in result.problems if problem not in of_batches]
    if problems:
        _fail(case, problems)
    for stage in result.stages:
        planned = SubElement(
            suite, "testcase", classname=f"{_NAME}.stages", name=stage.name, time="0"
        )
        if stage.failure:
            _fail(planned, [stage.failure])
    if result.export is not None:
        exported = SubElement(suite, "testcase", classname=_NAME, name=EXPORT, time="0")
        if not result.export:
            _fail(exported, result.export.failures)
    for engine in result.engines:
        made = SubElement(suite, "testcase", classname=_NAME, name=engine.file, time="0")
        if engine.result is None:
            SubElement(made, "skipped", message=_clean(str(engine.parity)))
        elif not engine.result:
            _fail(made, engine.result.failures)
    layers = SubElement(suite, "testcase", classname=_NAME, name="layers compared", time="0")
    if not result.layers.names:
        SubElement(layers, "skipped", message=_clean(f"not available: {result.layers.reason}"))
    return _counted(suite, 0.0)


def _suite(root: Element, result: ParityResult, item: DataSetResult) -> Element:
    suite = SubElement(root, "testsuite", name=_clean(f"{_NAME}: {item.name}"))
    cases = [case for case in result.cases if case.data_set == item.name]
    seconds = sum(case.seconds["candidate"] for case in cases)
    for level, subjects in (
        (Level.OUTPUT, item.outputs),
        (Level.DECISION, item.outputs),
        (Level.TASK, [] if item.answers is None else [item.answers.subject]),
        (Level.LAYER, item.layers),
    ):
        for subject in subjects:
            checks = [
                check
                for check in item.checks
                if (check.level, check.subject) == (level, subject) and check.value is not None
            ]
            if checks:
                _case(suite, item, level, subject, checks)
    for batch in cases:
        if batch.problem is not None:
            _fail(_named(suite, item, "batches", batch.name), [batch.problem])
    out = SubElement(suite, "system-out")
    out.text = _clean(compared(result))
    return _counted(suite, seconds)


def _case(
    suite: Element, item: DataSetResult, level: Level, subject: str, checks: Sequence[Check]
) -> None:
    name = f"decisions of {subject}" if level is Level.DECISION else subject
    case = _named(suite, item, f"{level.value}s", name)
    failed = [str(check) for check in checks if not check.passed]
    if failed:
        _fail(case, failed)
    lines = [
        f"{check.limit.metric.value} {number(check.value or 0.0)} {permitted(check)}"
        for check in checks
    ]
    if level is Level.DECISION:
        lines.append(verdicts(item.tallies[subject]))
    SubElement(case, "system-out").text = _clean("\n".join(lines))


def _named(suite: Element, item: DataSetResult, kind: str, name: str) -> Element:
    """A case of a data set."""
    classname = _clean(f"{_NAME}.{item.name.replace('.', '_')}.{kind}")
    return SubElement(suite, "testcase", classname=classname, name=_clean(name), time="0")


def _fail(case: Element, lines: Sequence[str]) -> None:
    element = SubElement(case, "failure", message=_clean(lines[0]), type="parity")
    element.text = _clean("\n".join(lines))


def _counted(suite: Element, seconds: float) -> Element:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for name, tag in (("failures", "failure"), ("skipped", "skipped")):
        suite.set(name, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("errors", "0")
    suite.set("time", f"{seconds:.3f}")
    return suite


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
