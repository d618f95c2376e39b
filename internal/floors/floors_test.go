package floors

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/pare-dev/pare/"

// floor is where a package stands. A package may import what stands strictly lower.
//
//	0    internal: fault; then progress, cpu, human; then par; then kernels; then storage; then the rest; then obs, corpus
//	10   formats/<name>: the bytes of one format
//	19   ir/graph; ir/rewrite above it
//	20   ir, and the rest of ir/* above it
//	30   formats, quantize, prune, lora, runner, and runner/* above runner
//	39   targets/npu: data and rules of processors
//	40   targets, targets/*
//	50   cmd
//	60   internal/peers: measures all of it beside other programs; its models need only formats
//	-1   testdata: embedded files, which import nothing
func floor(pkg string) float64 {
	switch first, rest, _ := strings.Cut(pkg, "/"); first {
	case "testdata":
		return -1
	case "internal":
		switch rest {
		case "fault":
			return 0
		case "progress", "cpu", "human":
			return 1
		case "par":
			return 1.5
		case "kernels":
			return 2
		case "storage":
			return 3
		case "obs", "corpus":
			return 5
		case "peers":
			return 60
		case "peers/synth":
			return 11
		}
		return 4
	case "formats":
		if rest != "" {
			return 10
		}
		return 30
	case "ir":
		switch rest {
		case "":
			return 20
		case "graph":
			return 19
		case "rewrite":
			return 19.5
		}
		return 21
	case "quantize", "prune", "lora", "distill":
		return 30
	case "runner":
		if rest != "" {
			return 31
		}
		return 30
	case "targets":
		return map[string]float64{"npu": 39, "": 40, "recipe": 40, "report": 41, "samples": 41, "pack": 41, "build": 42}[rest]
	case "cmd":
		return 50
	}
	return -2 // unknown: reported below
}

// sideways are the imports within one floor that the plan allows, each with its reason.
var sideways = map[string]string{
	"runner/verify runner": "31 imports 30: the comparison runs models",
	"runner/bench runner":  "31 imports 30: the measurement runs models",
}

// allowed reports whether from may import to.
func allowed(from, to string) bool {
	a, b := floor(from), floor(to)
	if _, ok := sideways[from+" "+to]; ok {
		return true
	}
	if a >= 30 && a < 40 && b >= 30 {
		return false // siblings on the third floor do not know each other
	}
	return b < a
}

func TestImportsPointDown(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := 0
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(strings.ReplaceAll(line, module, "./"))
		from, own := strings.CutPrefix(words[0], "./")
		if !own {
			continue
		}
		packages++
		if floor(from) == -2 {
			t.Errorf("%s stands on no floor: add it to the plan", from)
		}
		for _, w := range words[1:] {
			if to, own := strings.CutPrefix(w, "./"); own && !allowed(from, to) {
				t.Errorf("%s imports %s: imports point down (floor %v to %v)", from, to, floor(from), floor(to))
			}
		}
	}
	if packages < 20 {
		t.Errorf("only %d packages were looked at", packages)
	}
}

// The rule itself is tested: a test that cannot fail protects nothing.
func TestRule(t *testing.T) {
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"ir", "internal/storage", true},
		{"internal/storage", "ir", false},
		{"internal/storage", "internal/kernels", true},
		{"internal/kernels", "internal/storage", false},
		{"formats/gguf", "ir", false},
		{"formats", "formats/gguf", true},
		{"quantize", "formats", false},
		{"quantize", "runner", false},
		{"quantize", "formats/gguf", true},
		{"runner/verify", "runner", true},
		{"runner", "runner/verify", false},
		{"runner/verify", "quantize", false},
		{"runner/verify", "runner/bench", false},
		{"targets/build", "targets/pack", true},
		{"targets/pack", "targets/build", false},
		{"targets", "cmd/pare", false},
		{"cmd/pare", "targets/build", true},
	} {
		if allowed(c.from, c.to) != c.ok {
			t.Errorf("%s imports %s: allowed is %v", c.from, c.to, !c.ok)
		}
	}
}
