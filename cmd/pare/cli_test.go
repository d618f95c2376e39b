package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/storage"
)

func TestAlone(t *testing.T) {
	out := ok(t, t.TempDir())
	if n := strings.Count(out, "\n"); n != 4 || !strings.Contains(out, "pare demo") {
		t.Errorf("%d lines:\n%s", n, out)
	}
}

// Every verb's help starts with a sentence and has an example; the examples run in docs_test.go.
func TestHelp(t *testing.T) {
	a := newApp(nil, nil, nil, os.Getenv)
	for _, c := range append(a.root().Commands(), a.loraMergeCmd(), a.loraTrainCmd()) {
		if c.Name() == "help" || c.Name() == "lora" || c.Hidden {
			continue
		}
		if c.Example == "" {
			t.Errorf("%s has no example", c.Name())
		}
		if !strings.HasPrefix(c.Long+c.Short, strings.ToUpper((c.Long + c.Short)[:1])) {
			t.Errorf("%s: help does not start like a sentence", c.Name())
		}
	}
}

func TestOutputForms(t *testing.T) {
	dir := sample(t)
	table := ok(t, dir, "inspect", "books-llama/model", "--fast")
	golden(t, "inspect.txt", table)
	rows, err := csv.NewReader(strings.NewReader(ok(t, dir, "inspect", "books-llama/model", "--fast", "--output", "csv"))).ReadAll()
	if err != nil || len(rows) != 58 || rows[1][0] != "lm_head.weight" || rows[1][5] != "2097152" {
		t.Errorf("csv: %d rows, %v, %v", len(rows), rows[:2], err)
	}
	md := ok(t, dir, "inspect", "books-llama/model", "--fast", "--output", "md")
	if !strings.HasPrefix(md, "| tensor | role |") || strings.Count(md, "\n") != 59 {
		t.Errorf("md: %.200s", md)
	}
	lines := 0
	for line := range strings.Lines(ok(t, dir, "inspect", "books-llama/model", "--fast", "--output", "jsonl")) {
		var x struct{ Name string }
		if err := json.Unmarshal([]byte(line), &x); err != nil || x.Name == "" {
			t.Fatalf("jsonl: %v in %s", err, line)
		}
		lines++
	}
	if lines != 57 {
		t.Errorf("jsonl: %d lines", lines)
	}
	// the environment stands in for a flag, and the flag wins
	env := map[string]string{"PARE_OUTPUT": "md"}
	if d := pareEnv(t, dir, env, "inspect", "books-llama/model", "--fast"); d.out != md {
		t.Errorf("PARE_OUTPUT=md: %.200s", d.out)
	}
	if d := pareEnv(t, dir, env, "inspect", "books-llama/model", "--fast", "--output", "table"); d.out != table {
		t.Errorf("the flag does not win over the environment: %.200s", d.out)
	}
	if d := pareEnv(t, dir, map[string]string{"PARE_THREADS": "x"}, "version"); d.code != 2 || !strings.Contains(d.err, "PARE_THREADS") {
		t.Errorf("bad environment: %d, %s", d.code, d.err)
	}
}

// Progress on a pipe has no escape codes; JSON events parse; none and --quiet are silent; colours
// need a terminal and the absence of NO_COLOR.
func TestProgressAndColour(t *testing.T) {
	dir := sample(t)
	if d := pare(t, dir, "inspect", "books-llama/model"); strings.ContainsAny(d.err, "\x1b\r") || !strings.Contains(d.err, "read ") {
		t.Errorf("plain progress: %q", d.err)
	}
	for _, flags := range [][]string{{"--progress", "none"}, {"-q"}} {
		if d := pare(t, dir, append([]string{"inspect", "books-llama/model"}, flags...)...); d.err != "" {
			t.Errorf("%v: %q", flags, d.err)
		}
	}
	events := map[string]int{}
	d := pare(t, dir, "quantize", "books-llama/model", "--type", "q8_0", "-o", "x.gguf", "--progress", "json")
	for line := range strings.Lines(d.err) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		events[e.Event]++
	}
	if events["stage"] == 0 || events["done"] != events["stage"] || events["note"] == 0 {
		t.Errorf("events %v", events)
	}
	d = pare(t, dir, "inspect", "nowhere", "--progress", "json")
	var failed event
	if err := json.Unmarshal([]byte(d.err), &failed); err != nil || failed.Event != "error" || failed.Code != 1 || failed.Text != "nowhere: no such file or folder" || len(failed.Hints) != 1 {
		t.Errorf("an error with --progress json is one event: %v, %q", err, d.err)
	}
	var screen bytes.Buffer
	draw := func(env map[string]string) string {
		screen.Reset()
		a := newApp(nil, &screen, &screen, func(k string) string { return env[k] })
		a.errTerminal, a.outTerminal = true, true
		t.Chdir(dir)
		if code := a.run(t.Context(), []string{"inspect", "books-llama/model"}); code != 0 {
			t.Fatal(screen.String())
		}
		return screen.String()
	}
	if s := draw(nil); !strings.Contains(s, "\x1b[32m") {
		t.Errorf("a terminal gets no colours: %q", s)
	}
	if s := draw(map[string]string{"NO_COLOR": "1"}); strings.Contains(s, "\x1b[3") {
		t.Errorf("NO_COLOR is not honoured: %q", s)
	}
}

// The exit code tells a script what happened: gate, refusal, budget.
func TestExitCodes(t *testing.T) {
	dir := sample(t)
	quick := []string{"--chunks", "2", "--no-bench", "--text", "books-llama/text/test.txt", "-q"}
	build := func(args ...string) done {
		return pare(t, dir, append(append([]string{"build", "books-llama/model"}, args...), quick...)...)
	}
	d := build("-t", "x86-64-v3", "--quantize", "q2_k", "--gate", "kl_mean=0.0001", "-o", "no")
	if d.code != 3 || !strings.Contains(d.out, "FAIL") || !strings.Contains(d.out, "was not published") {
		t.Errorf("gate: code %d\n%s%s", d.code, d.out, d.err)
	}
	if _, err := os.Stat(filepath.Join(dir, "no", "x86-64-v3")); err == nil {
		t.Error("a rejected package was published")
	}
	if _, err := os.Stat(filepath.Join(dir, "no", "x86-64-v3.rejected")); err != nil {
		t.Error(err)
	}
	d = build("-t", "arm64", "--quantize", "q8_0", "--gate", "kl_mean=0.05", "--gate", "size_ratio=60%", "-o", "yes", "--archive")
	if d.code != 0 || !strings.Contains(d.out, "pass") {
		t.Errorf("pass: code %d\n%s%s", d.code, d.out, d.err)
	}
	for _, f := range []string{"arm64.pare", "report.json", "report.md", "report.html", "junit.xml"} {
		if _, err := os.Stat(filepath.Join(dir, "yes", f)); err != nil {
			t.Error(err)
		}
	}
	valid(t, "build", readFile(t, filepath.Join(dir, "yes", "report.json")))
	d = build("-t", "arm64", "--quantize", "q8_0", "-o", "yes", "--archive")
	if d.code != 2 {
		t.Errorf("overwriting: code %d\n%s", d.code, d.err)
	}
	d = build("-t", "arm64", "--quantize", "int4g128", "-o", "refused")
	if d.code != 4 || !strings.Contains(d.out+d.err, "int4") {
		t.Errorf("refusal: code %d\n%s%s", d.code, d.out, d.err)
	}
	d = build("-t", "arm64", "-o", "small", "--max-memory", "1MiB")
	if d.code != 5 {
		t.Errorf("budget: code %d\n%s%s", d.code, d.out, d.err)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The first Ctrl-C stops a run within a second and says how to go on; going on gives the package.
func TestInterrupt(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot send itself an interrupt here") // the signal does not exist, not the data
	}
	dir := sample(t)
	args := []string{"build", "books-llama/model", "-t", "arm64", "--quantize", "q4_0", "--calibration", "books-llama/text/calibration.txt", "--no-bench", "--chunks", "1", "-o", "out"}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, append(args, "--progress", "json")...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PARE_TEST_MAIN=1")
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	var sent time.Time
	for in := bufio.NewScanner(pipe); in.Scan(); {
		said.WriteString(in.Text() + "\n")
		if sent.IsZero() && strings.Contains(in.Text(), `"event":"progress"`) && strings.Contains(in.Text(), "gptq") {
			sent = time.Now()
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 130 {
		t.Fatalf("%v\n%s", err, said.String())
	}
	if took := time.Since(sent); took > 3*time.Second { // one second, and slack for a loaded machine
		t.Errorf("it took %v to stop", took)
	}
	for _, want := range []string{"finished stages are kept in", "go on with: pare build books-llama/model -t arm64"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("no %q in\n%s", want, said.String())
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "out", "arm64")); err == nil {
		t.Error("a half-written package was published")
	}
	ok(t, dir, args...)
	if _, err := os.Stat(filepath.Join(dir, "out", "arm64", "manifest.json")); err != nil {
		t.Error(err)
	}
}

// Completion knows targets, types, methods, and the tensors of the model on the line.
func TestCompletion(t *testing.T) {
	dir := sample(t)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out := ok(t, dir, "completion", shell); !strings.Contains(out, "pare") {
			t.Errorf("%s: %.100s", shell, out)
		}
	}
	for _, c := range []struct{ line, want string }{
		{"build m -t ", "x86-64-v4"},
		{"build m --quantize ", "q4_k_m"},
		{"build m --method ", "gptq"},
		{"build m --gate ", "kl_mean="},
		{"quantize books-llama/model --keep ", "model.layers.*.self_attn.v_proj="},
		{"quantize books-llama/model --keep x=", "x=q6_k"},
		{"targets ", "gpu-vllm"},
		{"inspect --output ", "jsonl"},
	} {
		words := strings.Split(c.line, " ")
		if out := ok(t, dir, append([]string{"__complete"}, words...)...); !strings.Contains(out, c.want) {
			t.Errorf("%q does not offer %q:\n%s", c.line, c.want, out)
		}
	}
}

func TestShellLine(t *testing.T) {
	got := shellLine([]string{"build", "my model", "--keep", "*.attn_v.*=q6_k", "-p", "it's"})
	want := `build 'my model' --keep '*.attn_v.*=q6_k' -p 'it'\''s'`
	if runtime.GOOS != "windows" {
		out, err := exec.Command("sh", "-c", "printf '%s\n' "+got).Output()
		if err != nil || string(out) != "build\nmy model\n--keep\n*.attn_v.*=q6_k\n-p\nit's\n" {
			t.Errorf("a shell reads %q as %q, %v", got, out, err)
		}
	}
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// PARE_ISA chooses the level, --isa wins over it, and a name that does not exist is a mistake in usage.
func TestISA(t *testing.T) {
	env := func(name string) string { return map[string]string{"PARE_ISA": "portable"}[name] }
	bad := func(name string) string { return map[string]string{"PARE_ISA": "mmx"}[name] }
	defer storage.Use(cpu.Best())
	for _, c := range []struct {
		env  func(string) string
		args []string
		want cpu.Level
		code int
	}{
		{env, nil, cpu.Portable, 0},
		{env, []string{"--isa", "auto"}, cpu.Best(), 0},
		{bad, nil, "", 2},
		{bad, []string{"--isa", "portable"}, cpu.Portable, 0},
	} {
		var out, failed bytes.Buffer
		a := newApp(nil, &out, &failed, c.env)
		if code := a.run(t.Context(), append([]string{"version"}, c.args...)); code != c.code || a.level != c.want {
			t.Errorf("%v: exit code %d, level %q, want %d and %q\n%s", c.args, code, a.level, c.code, c.want, failed.String())
		}
	}
}
