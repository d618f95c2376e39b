package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files and docs/cli.md, which are our own output")

// TestMain lets the test binary be pare itself: bench starts its own program, and the test of
// Ctrl-C needs a process to send a signal to.
func TestMain(m *testing.M) {
	if os.Getenv("PARE_TEST_MAIN") == "1" || len(os.Args) > 1 && os.Args[1] == "peak" {
		main()
		return
	}
	flag.Parse()
	os.Exit(m.Run())
}

// done is what one command line came to.
type done struct {
	code     int
	out, err string
}

// pare runs a command line in a folder, in this process, with no terminal.
func pare(t *testing.T, dir string, args ...string) done {
	t.Helper()
	return pareEnv(t, dir, nil, args...)
}

func pareEnv(t *testing.T, dir string, env map[string]string, args ...string) done {
	t.Helper()
	t.Chdir(dir)
	var out, err bytes.Buffer
	a := newApp(strings.NewReader(""), &out, &err, func(k string) string { return env[k] })
	code := a.run(context.Background(), args)
	return done{code, out.String(), err.String()}
}

// ok runs a command line that must succeed and returns its stdout.
func ok(t *testing.T, dir string, args ...string) string {
	t.Helper()
	d := pare(t, dir, args...)
	if d.code != 0 {
		t.Fatalf("pare %s: exit code %d\n%s%s", shellLine(args), d.code, d.out, d.err)
	}
	return d.out
}

// sample is a folder with the embedded model in books-llama and a quantized copy of it beside; it
// is made once for all tests, which do not write into books-llama.
func sample(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := writeSample(filepath.Join(dir, "books-llama"), false); err != nil {
		t.Fatal(err)
	}
	return dir
}

// golden compares with a file in testdata/golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join(home, "testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./cmd/pare -update rewrites it)\n--- got\n%s--- want\n%s", name, got, want)
	}
}

// home is the folder of this package, before any test changes the folder.
var home, _ = os.Getwd()
