// Command pare turns a trained language model into verified packages for the devices it must run
// on. This package knows people: flags, progress, tables, exit codes. It knows no arithmetic; each
// verb is one file that turns flags into structs, calls the engine, and renders what comes back.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	a := newApp(os.Stdin, os.Stdout, os.Stderr, os.Getenv)
	a.terminals()
	sig := make(chan os.Signal, 2)
	signal.Notify(sig, os.Interrupt, syscall.SIGTERM)
	os.Exit(a.guarded(context.Background(), sig, os.Exit, os.Args[1:]))
}
