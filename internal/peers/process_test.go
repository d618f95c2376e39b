package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// The test binary stands for the program when timed starts it in between.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == measureVerb {
		if err := measure(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A small process is told to be small also by one that is large.
func TestTimedPeak(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("the system tells no peak")
	}
	const large = 256 << 20
	held := make([]byte, large)
	for i := 0; i < len(held); i += 4096 {
		held[i] = 1
	}
	seconds, peak, err := timed(exec.CommandContext(t.Context(), "sh", "-c", "sleep 0.05"))
	runtime.KeepAlive(held)
	if err != nil || seconds < 0.05 || seconds > 5 || peak < 1<<18 || peak > large/2 {
		t.Errorf("%g s, %g bytes, %v", seconds, peak, err)
	}
	if _, _, err := timed(exec.CommandContext(t.Context(), "sh", "-c", "echo why >&2; exit 3")); err == nil {
		t.Error("a command that fails is measured")
	}
}
