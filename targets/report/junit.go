package report

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/jstemmer/go-junit-report/v2/junit"

	"github.com/pare-dev/pare/runner/verify"
)

// JUnit is the verdict as test results, which every CI system shows: a suite for each target, a
// test for each limit. A limit that could not be decided is an error, not a failure.
func (r *Report) JUnit() ([]byte, error) {
	all := junit.Testsuites{Name: "pare build", Time: fmt.Sprintf("%.3f", r.Seconds)}
	for i := range r.Targets {
		t := &r.Targets[i]
		s := junit.Testsuite{Name: t.Name, ID: i, Package: "pare." + t.Name, Time: fmt.Sprintf("%.3f", r.targetSeconds(t.Name))}
		s.AddProperty("type", t.Type)
		s.AddProperty("bytes", fmt.Sprint(t.Bytes))
		if t.KL != nil {
			s.AddProperty("kl_mean", fmt.Sprint(t.KL.Mean))
		}
		if t.Digest != "" {
			s.AddProperty("digest", t.Digest)
		}
		test := func(name string, failure, undecided *junit.Result) {
			s.AddTestcase(junit.Testcase{Name: name, Classname: "pare." + t.Name, Failure: failure, Error: undecided})
		}
		if t.Verdict == Refused {
			var b strings.Builder
			for _, l := range t.Refusals {
				fmt.Fprintln(&b, remark(l))
			}
			test("the target takes the model", &junit.Result{Message: t.VerdictText(), Type: "refused", Data: b.String()}, nil)
			all.AddSuite(s)
			continue
		}
		test("the target takes the model", nil, nil)
		if m := r.Merge; m != nil {
			var bad *junit.Result
			if m.Verdict == Fail {
				bad = &junit.Result{Message: fmt.Sprintf("logits differ by %g", m.MaxAbsDiff), Type: "merge"}
			}
			test("merge equals base and adapter", bad, nil)
		}
		if t.Perplexity != nil {
			test("the package opens and runs", nil, nil)
		}
		for _, c := range t.Gate.Checks {
			res := &junit.Result{Message: CheckText(c), Type: "gate"}
			switch c.Verdict {
			case verify.Fail:
				test(c.Name, res, nil)
			case verify.Inconclusive:
				test(c.Name, nil, res)
			default:
				test(c.Name, nil, nil)
			}
		}
		all.AddSuite(s)
	}
	var b bytes.Buffer
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n")
	if err := all.WriteXML(io.Writer(&b)); err != nil {
		return nil, fmt.Errorf("report: junit: %w", err)
	}
	return b.Bytes(), nil
}

// targetSeconds is what the stages of one target took.
func (r *Report) targetSeconds(name string) (sum float64) {
	for _, s := range r.Stages {
		if s.Target == name {
			sum += s.Seconds
		}
	}
	return sum
}
