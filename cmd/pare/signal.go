package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// patience is how long an interrupted run may take to stop by itself. Every file that pare writes
// appears by rename, so stopping at any moment leaves nothing half-written.
const patience = 900 * time.Millisecond

// guarded is run with Ctrl-C: the first stops the work and says what is kept and how to go on, the
// second stops the process at once. exit ends the process and is called when the work does not
// stop in time.
func (a *app) guarded(ctx context.Context, sig <-chan os.Signal, exit func(int), args []string) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan int, 1)
	go func() { done <- a.run(ctx, args) }()
	select {
	case code := <-done:
		return code
	case <-sig:
	}
	a.say("stopping; Ctrl-C again stops at once")
	cancel()
	select {
	case code := <-done:
		if code != exitInterrupted {
			return code // it finished, or failed, in the same moment
		}
	case <-time.After(patience):
	case <-sig:
		exit(exitInterrupted)
	}
	a.farewell()
	return exitInterrupted
}

// farewell says what an interrupted run leaves behind and the line that goes on from it. A work folder
// in which nothing was finished is gone by now; while there is one, there is a lock in it.
func (a *app) farewell() {
	a.mu.Lock()
	kept := a.kept
	a.mu.Unlock()
	if kept != "" {
		if _, err := os.Lstat(filepath.Join(kept, "lock")); err != nil {
			kept = ""
		}
	}
	if kept == "" {
		a.say("stopped; nothing was written")
		return
	}
	a.say("stopped; finished stages are kept in %s", kept)
	a.say("go on with: pare %s", shellLine(a.args))
}

// say writes one line to stderr, whatever --quiet says.
func (a *app) say(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fmt.Fprintf(a.err, "pare: "+format+"\n", args...)
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// shellLine spells arguments so that a POSIX shell reads them back.
func shellLine(args []string) string {
	words := make([]string, len(args))
	for i, w := range args {
		if !plainWord.MatchString(w) {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		words[i] = w
	}
	return strings.Join(words, " ")
}
