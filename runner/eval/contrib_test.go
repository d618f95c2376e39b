package eval

import "testing"

// contribCases are uses of operators that ONNX Runtime adds, with what it computes.
func contribCases(t *testing.T) []*backendCase {
	return casesOf(t, "../../testdata/onnx-contrib/cases.zip")
}

func runContrib(t *testing.T) []*outcome {
	var list []*outcome
	for _, c := range contribCases(t) {
		o := &outcome{backendCase: c}
		o.err = c.run(t.TempDir(), o)
		list = append(list, o)
	}
	return list
}

// What ONNX Runtime adds to ONNX means what it means there, and no such operator is without a case.
func TestContrib(t *testing.T) {
	list := runContrib(t)
	for _, o := range list {
		if o.err != nil {
			t.Errorf("%s: %v", o.name, o.err)
		}
	}
	for _, o := range Operators() {
		if o.Domain == msDomain && passing(list, o.Domain+"."+o.Name) == 0 {
			t.Errorf("%s.%s has no case that passes", o.Domain, o.Name)
		}
	}
}
