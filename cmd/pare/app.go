package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/targets/recipe"
)

// app is one run of the command line: its streams, its global flags, and what it would say when
// interrupted.
type app struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string
	args     []string // as typed, for the line that continues an interrupted run

	outTerminal, errTerminal bool
	width                    int // columns of the error terminal

	output     choice
	progress   choice
	quiet      bool
	verbose    bool
	noColor    bool
	threads    int
	maxMemory  size
	budget     budget
	work       string
	seed       uint64
	isa        string
	level      cpu.Level // of isa, once flags are read
	seedIsSet  bool
	memIsSet   bool
	workIsSet  bool
	threadsSet bool

	mu     sync.Mutex
	kept   string // the work folder of an interrupted run; guarded by mu
	sink   sink
	packed recipe.Inputs // how files become inputs, as the package says that was opened last
	pool   *par.Pool     // of all models that run, made by workers
}

func newApp(in io.Reader, out, err io.Writer, getenv func(string) string) *app {
	return &app{
		in: in, out: out, err: err, getenv: getenv, width: 80,
		output:   choice{value: "table", of: []string{"table", "json", "jsonl", "csv", "md"}},
		progress: choice{value: "auto", of: []string{"auto", "bar", "plain", "json", "none"}},
	}
}

// terminals finds out which streams a person looks at.
func (a *app) terminals() {
	if f, ok := a.out.(*os.File); ok {
		a.outTerminal = term.IsTerminal(int(f.Fd()))
	}
	if f, ok := a.err.(*os.File); ok {
		a.errTerminal = term.IsTerminal(int(f.Fd()))
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
			a.width = w
		}
	}
}

// run executes one command line and returns its exit code.
func (a *app) run(ctx context.Context, args []string) (code int) {
	a.args = args
	out := &watched{w: a.out}
	a.out = out
	defer func() {
		if bug := recover(); bug != nil {
			stack := debug.Stack()
			if p, ok := bug.(*fault.Panic); ok {
				bug, stack = p.Value, p.Stack
			}
			fmt.Fprintf(a.err, "pare: this is a bug in pare: %v\n  Please report it with the line that was typed: pare %s\n", bug, shellLine(args))
			if a.verbose {
				fmt.Fprintf(a.err, "%s", stack)
			}
			code = exitFailed
		}
	}()
	root := a.root()
	root.SetArgs(append([]string{}, args...)) // never nil: that would mean the process's own
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	if a.pool != nil {
		a.pool.Close()
	}
	a.stopProgress()
	if err == nil {
		a.overrun()
	}
	if err == nil && out.err != nil {
		err = &fault.Error{File: "stdout", Err: unpath(out.err), Hint: "the result was not written: give it a place to go"}
	}
	if err == nil {
		return 0
	}
	if code, quiet := exitOnly(err); quiet {
		return code
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) { // whoever interrupted is told by guarded
		if j, ok := a.sink.(*jsonSink); ok {
			j.failed(err)
		}
		return exitInterrupted
	}
	a.printError(err)
	return exitCode(err)
}

// watched remembers that a write failed: a result that went nowhere is no success.
type watched struct {
	w   io.Writer
	err error
}

func (o *watched) Write(b []byte) (int, error) {
	n, err := o.w.Write(b)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

func unpath(err error) error {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// root builds the command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "pare",
		Short: "Turn a trained language model into verified packages for the devices it must run on",
		Long: `pare reads a trained model and its LoRA adapters, merges, prunes and quantizes it, writes a
package for every target you name, runs original and package side by side, and says whether the
package is good enough. One binary, no Python, no network.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          a.unknownVerb,
		Run: func(*cobra.Command, []string) {
			a.printf("pare turns a trained model into verified packages for the devices it must run on.\n" +
				"  pare demo                                  the whole tour on a built-in model, about a minute\n" +
				"  pare build MODEL -t arm64 -o dist          merge, prune, quantize, verify, package\n" +
				"  pare help                                  every verb; pare VERB --help has an example\n")
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.ready(cmd) },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(flagError)
	root.SetHelpTemplate(helpTemplate)
	root.SetUsageTemplate(usageTemplate)
	f := root.PersistentFlags()
	f.Var(&a.output, "output", "what stdout carries: table, json, jsonl, csv or md")
	f.Var(&a.progress, "progress", "how work is shown on stderr: auto, bar, plain, json or none")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "only results and errors")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "every decision, also the small ones")
	f.BoolVar(&a.noColor, "no-color", false, "no colours (also NO_COLOR)")
	f.IntVarP(&a.threads, "threads", "j", 0, "threads, 0 for all cores; never changes a result")
	f.Var(&a.maxMemory, "max-memory", "most memory to use, such as 512MiB, 0 for no limit; work that needs more is refused before it starts")
	f.StringVar(&a.work, "work", "", "folder for intermediate results that a later run continues from")
	f.Uint64Var(&a.seed, "seed", 0, "seed of everything random")
	f.StringVar(&a.isa, "isa", "auto", "instruction set: auto, portable, "+levels())
	for flag, of := range map[string][]string{"output": a.output.of, "progress": a.progress.of, "isa": isaNames()} {
		complete(root, flag, of...)
	}
	root.AddGroup(
		&cobra.Group{ID: "main", Title: "The main job:"},
		&cobra.Group{ID: "step", Title: "One step at a time:"},
		&cobra.Group{ID: "judge", Title: "Look, try, judge:"},
		&cobra.Group{ID: "rest", Title: "Around it:"})
	root.SetHelpCommandGroupID("rest")
	for _, g := range []struct {
		group string
		verbs []func() *cobra.Command
	}{
		{"main", []func() *cobra.Command{a.buildCmd, a.planCmd, a.initCmd, a.checkCmd, a.demoCmd}},
		{"step", []func() *cobra.Command{a.quantizeCmd, a.pruneCmd, a.distillCmd, a.loraCmd, a.convertCmd, a.calibrateCmd}},
		{"judge", []func() *cobra.Command{a.inspectCmd, a.runCmd, a.verifyCmd, a.explainCmd, a.benchCmd, a.peakCmd}},
		{"rest", []func() *cobra.Command{a.targetsCmd, a.doctorCmd, a.completionCmd, a.versionCmd, a.docsCmd}},
	} {
		for _, verb := range g.verbs {
			c := verb()
			c.GroupID = g.group
			root.AddCommand(c)
		}
	}
	return root
}

// ready applies the environment and checks the global flags, before any verb runs.
func (a *app) ready(cmd *cobra.Command) error {
	if err := a.environment(cmd); err != nil {
		return err
	}
	if a.getenv("NO_COLOR") != "" || a.getenv("TERM") == "dumb" {
		a.noColor = true
	}
	level, err := cpu.Parse(a.isa)
	if err != nil {
		return flagFault("isa", err)
	}
	a.level = level
	storage.Use(level)
	if a.threads < 0 {
		return flagFault("threads", misusef("%d is not a number of threads; 0 means all cores", a.threads))
	}
	// verbs that add up what their work takes name that, and not first what the program alone does
	sums := slices.Contains([]string{"run", "bench", "quantize", "prune", "convert"}, cmd.Name()) && !cmd.Flags().Changed("encode") && !cmd.Flags().Changed("decode")
	if err := proc.Afford("", proc.Program, int64(a.maxMemory), ""); err != nil && !sums {
		return err
	}
	proc.LimitMemory(int64(a.maxMemory), 0)
	f := cmd.Flags()
	a.seedIsSet, a.memIsSet, a.workIsSet, a.threadsSet = f.Changed("seed"), f.Changed("max-memory"), f.Changed("work"), f.Changed("threads")
	return nil
}

// sinkFor is where the work of this run reports its progress. It starts on first use.
func (a *app) progressSink() progress.Sink {
	if a.sink == nil {
		a.sink = a.newSink()
	}
	return a.sink
}

// stopProgress ends the last stage, so that what follows starts on a clean line.
func (a *app) stopProgress() {
	if a.sink != nil {
		a.sink.stop()
	}
}

// keep says where an interruption would leave finished stages.
func (a *app) keep(work string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kept = work
}

func levels() string { return strings.Join(isaNames()[2:], ", ") }

// isaNames lists every level that pare knows, also those of other machines.
func isaNames() []string {
	names := []string{"auto"}
	for _, l := range cpu.Levels() {
		names = append(names, string(l))
	}
	return names
}
