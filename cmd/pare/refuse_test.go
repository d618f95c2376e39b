//go:build unix

package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What is neither a file nor a folder is never replaced, whatever --force says: a rename would take a
// device or a pipe away from all who use it. The line is refused before the model is read, and the message
// says what lies there. A link to such a thing is one.
func TestSpecialTargets(t *testing.T) {
	dir := sample(t)
	pipe := filepath.Join(dir, "pipe.gguf")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("pipe.gguf", filepath.Join(dir, "link.gguf")); err != nil {
		t.Fatal(err)
	}
	const model = "books-llama/model"
	for _, line := range []string{
		"quantize " + model + " --type q4_0 --force -o pipe.gguf",
		"quantize " + model + " --type q4_0 --force -o link.gguf",
		"quantize " + model + " --type q4_0 -o pipe.gguf",
		"convert " + model + " --to gguf --force -o pipe.gguf",
		"calibrate " + model + " --text books-llama/text/calibration.txt --force -o pipe.gguf",
		"run " + model + " --tokens 1,2 --force --logits pipe.gguf",
		"run " + model + " --tokens 1,2 --force --save-output pipe.gguf",
		"init " + model + " --force -o pipe.gguf",
		"build " + model + " -t arm64 --force -o pipe.gguf",
	} {
		d := pare(t, dir, strings.Fields(line)...)
		if d.code != exitMisuse || d.out != "" || !strings.Contains(d.err, "pipe") || !strings.Contains(d.err, "a named pipe") {
			t.Errorf("pare %s: exit code %d\n%s%s", line, d.code, d.out, d.err)
		}
		if st, err := os.Lstat(pipe); err != nil || st.Mode()&fs.ModeNamedPipe == 0 {
			t.Fatalf("pare %s replaced the pipe: %v, %v", line, st, err)
		}
	}
}

// A step that is stopped says that its work folder is kept, where it is; going on from it gives the file
// and leaves nothing else.
func TestInterruptedStep(t *testing.T) {
	dir := sample(t)
	args := []string{"quantize", "books-llama/model", "--type", "q4_k_m", "--calibration", "books-llama/text/calibration.txt", "--tokens", "16384", "-o", "c.gguf"}
	cmd := exec.Command(os.Args[0], append(args, "--progress", "json")...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PARE_TEST_MAIN=1")
	said := &stopper{when: `"event":"progress","stage":"gptq"`, stop: func() { _ = cmd.Process.Signal(syscall.SIGINT) }}
	cmd.Stderr = said
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitInterrupted {
		t.Fatalf("%v\n%s", err, said.text.String())
	}
	_, err = os.Stat(filepath.Join(dir, "c.gguf.work"))
	if err != nil || !strings.Contains(said.text.String(), "finished stages are kept in c.gguf.work") || !strings.Contains(said.text.String(), "go on with: pare quantize") {
		t.Errorf("work folder: %v\n%s", err, said.text.String())
	}
	d := pare(t, dir, args...)
	if d.code != 0 {
		t.Errorf("going on: exit code %d\n%s", d.code, d.err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "c.*")); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// stopper calls stop once, when a text was written to it.
type stopper struct {
	text bytes.Buffer
	when string
	stop func()
}

func (s *stopper) Write(b []byte) (int, error) {
	n, err := s.text.Write(b)
	if s.stop != nil && strings.Contains(s.text.String(), s.when) {
		s.stop()
		s.stop = nil
	}
	return n, err
}

// A prompt that the model cannot take is a mistake on the line, and writes nothing to stdout; neither
// does a run that generates nothing.
func TestUnfitPrompts(t *testing.T) {
	dir := sample(t)
	long := strings.TrimSuffix(strings.Repeat("1,", 64), ",")
	for _, c := range []struct {
		code int
		line string
	}{
		{exitMisuse, "--tokens 99999999"},
		{exitMisuse, "--tokens -1"},
		{exitMisuse, "--tokens 99999999 -n 0"},
		{exitMisuse, "--tokens 99999999 --logits x.npy"},
		{exitMisuse, "--context 16 --tokens " + long},
		{0, "--tokens 1,2 -n 0"},
	} {
		d := pare(t, dir, append([]string{"run", "books-llama/model"}, strings.Fields(c.line)...)...)
		if d.code != c.code || d.out != "" || c.code != 0 && !strings.Contains(d.err, "pare: ") {
			t.Errorf("pare run %s: exit code %d, want %d, stdout %q\n%s", c.line, d.code, c.code, d.out, d.err)
		}
	}
}

// refusing takes no byte, as a closed pipe or a full disk.
type refusing struct{ tries int }

func (r *refusing) Write([]byte) (int, error) { r.tries++; return 0, syscall.EBADF }

// Where stdout takes nothing, a run ends at the first token and fails.
func TestRefusedStdout(t *testing.T) {
	dir := sample(t)
	t.Chdir(dir)
	var out refusing
	var said bytes.Buffer
	a := newApp(strings.NewReader(""), &out, &said, func(string) string { return "" })
	if code := a.run(t.Context(), []string{"run", "books-llama/model", "-p", "It was", "-n", "200"}); code != exitFailed || out.tries > 2 {
		t.Errorf("exit code %d after %d writes\n%s", code, out.tries, said.String())
	}
}

// The first refusal of a limit names a size that is accepted, however small the limit was.
func TestFirstRefusalOfMemory(t *testing.T) {
	dir := sample(t)
	args := []string{"run", "books-llama/model", "--tokens", "1,2,3", "-n", "2", "-j", "2", "--max-memory"}
	d := pare(t, dir, append(args, "1MiB")...)
	least := atLeastSize.FindStringSubmatch(d.err)
	if d.code != exitBudget || least == nil {
		t.Fatalf("exit code %d\n%s", d.code, d.err)
	}
	if d := pare(t, dir, append(args, strings.ReplaceAll(least[1], " ", ""))...); d.code != 0 {
		t.Errorf("%s: exit code %d\n%s", least[1], d.code, d.err)
	}
}
