package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pare-dev/pare/internal/human"
)

// measured runs a line in a process of its own and returns the peak that Linux counted for it
// (VmHWM), as read every few milliseconds until it ended.
func measured(t *testing.T, dir string, args ...string) (d done, peak int64) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PARE_TEST_MAIN=1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	status := fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)
	for {
		select {
		case err := <-ended:
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			return done{cmd.ProcessState.ExitCode(), out.String(), errs.String()}, peak
		case <-time.After(3 * time.Millisecond):
			b, _ := os.ReadFile(status) // gone with the process
			for line := range strings.Lines(string(b)) {
				var kib int64
				if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
					peak = max(peak, kib<<10)
				}
			}
		}
	}
}

// --max-memory is kept by every verb that works with weights, or refused with the least that it
// takes: with that much the work is done, and the process stays below; two of them are also given
// half as much again.
func TestMaxMemory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the peak of another process is read from /proc")
	}
	if testing.Short() {
		t.Skip("runs every verb twice")
	}
	dir := sample(t)
	const model, text = "books-llama/model", "books-llama/text/"
	ok(t, dir, "quantize", model, "--type", "q4_0", "-o", "q.gguf", "-q")
	for _, line := range []string{
		"inspect " + model,
		"run " + model + " -p hello -n 16",
		"verify " + model + " q.gguf --text " + text + "test.txt --chunks 1 --write 16",
		"explain " + model + " q.gguf --text " + text + "test.txt --chunks 1 --context 64",
		"calibrate " + model + " --text " + text + "calibration.txt --tokens 2048 -o imatrix.gguf --force",
		"bench q.gguf --vs " + model + " --prompt 32 --generate 4 --repeat 1",
		"quantize " + model + " --type q4_k_m -o out.gguf --force",
		"quantize " + model + " --type q4_0 --calibration " + text + "calibration.txt --tokens 2048 -o out.gguf --force",
		"prune " + model + " --sparsity 50% -o pruned --force",
		"convert " + model + " -o converted.gguf --force",
		"lora merge " + model + " --adapter books-llama/adapter-shakespeare -o merged --force",
		"build " + model + " --adapter books-llama/adapter-shakespeare -t arm64 --calibration " + text + "calibration.txt --tokens 2048 --chunks 2 --gate kl_mean=9 -o dist --force",
	} {
		args := append(strings.Fields(line), "-q", "-j", "2")
		d, _ := measured(t, dir, append(args, "--max-memory", "30MiB")...)
		least := atLeastSize.FindStringSubmatch(d.err)
		if d.code != exitBudget || least == nil {
			t.Errorf("%s in 30 MiB: exit code %d\n%s", line, d.code, d.err)
			continue
		}
		n, err := human.ParseSize(least[1])
		if err != nil {
			t.Fatal(err)
		}
		budgets := []int64{n}
		if args[0] == "run" || args[0] == "build" { // those that spend what they are given more: pages kept, walks in larger parts
			budgets = append(budgets, n*3/2)
		}
		for _, budget := range budgets {
			d, peak := measured(t, dir, append(args, "--max-memory", fmt.Sprint(budget))...)
			t.Logf("%-9s %s of %s", args[0], human.Bytes(peak), human.Bytes(budget))
			if d.code != 0 || peak == 0 || peak > budget {
				t.Errorf("%s in %s: exit code %d, peak %s\n%s", line, human.Bytes(budget), d.code, human.Bytes(peak), d.err)
			}
		}
	}
}

var atLeastSize = regexp.MustCompile(`at least ([0-9.]+ [KMG]iB) of memory`)

// What plan says of memory is what build takes, within half as much again.
func TestPlannedMemory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the peak of another process is read from /proc")
	}
	if testing.Short() {
		t.Skip("builds packages")
	}
	dir := sample(t)
	const text = "books-llama/text/"
	for name, more := range map[string][]string{
		"rounded":    {"-t", "x86-64-v3", "--quantize", "q8_0", "--method", "rtn"},
		"calibrated": {"-t", "arm64", "--adapter", "books-llama/adapter-shakespeare", "--calibration", text + "calibration.txt", "--tokens", "16384"},
	} {
		line := append([]string{"books-llama/model", "--text", text + "test.txt", "--chunks", "4", "--gate", "kl_mean=9", "-j", "2", "-q", "--output", "json"}, more...)
		var plan struct {
			Peak int64 `json:"peak_memory_bytes"`
		}
		if err := json.Unmarshal([]byte(ok(t, dir, append([]string{"plan"}, line...)...)), &plan); err != nil {
			t.Fatal(err)
		}
		d, peak := measured(t, dir, append([]string{"build", "-o", filepath.Join(dir, name)}, line...)...)
		if d.code != 0 {
			t.Fatalf("%s: exit code %d\n%s", name, d.code, d.err)
		}
		ratio := float64(plan.Peak) / float64(peak)
		t.Logf("%s: planned %s, took %s", name, human.Bytes(plan.Peak), human.Bytes(peak))
		if ratio < 0.6 || ratio > 1.7 { // 1.5, and what a busy machine moves
			t.Errorf("%s: planned %s, took %s", name, human.Bytes(plan.Peak), human.Bytes(peak))
		}
	}
}
