package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
)

// Exit codes, a contract with scripts (docs/cli.md).
const (
	exitFailed      = 1
	exitMisuse      = 2
	exitGate        = 3
	exitRefused     = 4
	exitBudget      = 5
	exitInterrupted = 130
)

// exitCode maps the class of an error to the code of the process.
func exitCode(err error) int {
	for _, c := range []struct {
		class error
		code  int
	}{
		{context.Canceled, exitInterrupted},
		{fault.ErrMisuse, exitMisuse},
		{fault.ErrBudget, exitBudget},
		{fault.ErrRefused, exitRefused},
		{fault.ErrGate, exitGate},
	} {
		if errors.Is(err, c.class) {
			return c.code
		}
	}
	return exitFailed
}

// codeOnly ends the run with a code when everything worth saying has been said.
type codeOnly int

func (c codeOnly) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func exitOnly(err error) (int, bool) {
	var c codeOnly
	if errors.As(err, &c) {
		return int(c), true
	}
	return 0, false
}

// misusef is a mistake on the command line.
func misusef(format string, args ...any) error {
	return fault.As(fault.ErrMisuse, fmt.Errorf(format, args...))
}

// misuse is a mistake on the command line with one thing to try.
func misuse(hint, format string, args ...any) error {
	return &fault.Error{Err: misusef(format, args...), Hint: hint}
}

// flagFault says which flag an error is about.
func flagFault(flag string, err error) error {
	if fe, ok := err.(*fault.Error); ok && fe.Op == flag { //nolint:errorlint // said once is enough
		inner := *fe
		inner.Op = ""
		err = &inner
	}
	return &fault.Error{File: "--" + flag, Err: fault.As(fault.ErrMisuse, err)}
}

var recipeLine = regexp.MustCompile(`^[^:\s]+\.toml:\d+`)

// printError writes every reason as "pare: where: what is wrong" and one thing to try below it.
func (a *app) printError(err error) {
	if a.progress.value == "json" { // one event a line, and nothing else
		j, ok := a.progressSink().(*jsonSink)
		if ok {
			j.failed(err)
			return
		}
	}
	bold, plain := a.style(a.err, "1;31"), a.style(a.err, "0")
	for _, g := range kinds(flatten(err)) {
		text, hints := describe(g.first)
		name := bold + "pare:" + plain + " "
		if recipeLine.MatchString(text) {
			name = "" // an editor jumps to file:line at the start of a line
		}
		fmt.Fprintf(a.err, "%s%s\n", name, text)
		if g.more > 0 {
			fmt.Fprintf(a.err, "  and %d more like it\n", g.more)
		}
		if h := outside(g.first); h != "" && len(hints) == 0 {
			hints = []string{h}
		}
		for _, h := range hints {
			if g.tensor != "" && g.more > 0 {
				h = strings.ReplaceAll(h, g.tensor, "NAME")
			}
			fmt.Fprintf(a.err, "  %s\n", sentence(h))
		}
	}
}

// outside is what to try when the machine, and not the work, was at fault.
func outside(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return "free some space, or choose another -o or --work"
	case errors.Is(err, syscall.EFBIG):
		return "the limit is what ulimit -f shows; a Hugging Face folder can be written in smaller files"
	case errors.Is(err, fs.ErrPermission):
		return "choose a place that you may read and write"
	}
	return ""
}

// group is a kind of error: the first of it, the tensor that one is about, and how many follow.
type group struct {
	first  error
	tensor string
	more   int
}

var variable = regexp.MustCompile(`"[^"]*"|\([^)]*\)|\[[^\]]*\]|[0-9]+`)

// kinds puts errors about tensors together that differ only in names and numbers: what is wrong with
// a model is wrong in every block of it.
func kinds(errs []error) []*group {
	var out []*group
	seen := map[string]*group{}
	for _, e := range errs {
		fe, ok := e.(*fault.Error) //nolint:errorlint // what is printed is this error
		if !ok || fe.Tensor == "" {
			out = append(out, &group{first: e})
			continue
		}
		text, _ := describe(fe)
		key := variable.ReplaceAllString(strings.ReplaceAll(text, fe.Tensor, ""), "")
		if g := seen[key]; g != nil {
			g.more++
			continue
		}
		seen[key] = &group{first: e, tensor: fe.Tensor}
		out = append(out, seen[key])
	}
	return out
}

// flatten lists the errors of errors.Join separately. An error that only has a class (see
// fault.As) is one error: its text is not the text of its parts.
func flatten(err error) []error {
	many, ok := err.(interface{ Unwrap() []error }) //nolint:errorlint // the outermost level is what is split
	if !ok {
		return []error{err}
	}
	parts := many.Unwrap()
	lines := make([]string, len(parts))
	for i, p := range parts {
		lines[i] = p.Error()
	}
	if err.Error() != strings.Join(lines, "\n") {
		return []error{err}
	}
	var all []error
	for _, p := range parts {
		all = append(all, flatten(p)...)
	}
	return all
}

// describe splits an error into what is wrong and what to try.
func describe(err error) (text string, hints []string) {
	switch e := err.(type) { //nolint:errorlint // walks the chain itself
	case *fault.Error:
		var parts []string
		if e.File != "" {
			parts = append(parts, e.File)
		}
		if e.Tensor != "" {
			parts = append(parts, `tensor "`+e.Tensor+`"`)
		}
		if e.Op != "" {
			parts = append(parts, e.Op)
		}
		if e.Err != nil {
			inner, more := describe(e.Err)
			if e.File != "" { // the reason of a file error often starts with the same path
				inner = strings.TrimPrefix(inner, e.File+": ")
			}
			parts, hints = append(parts, inner), more
		}
		if e.Hint != "" {
			hints = append([]string{e.Hint}, hints...)
		}
		return strings.Join(parts, ": "), hints
	case *fs.PathError:
		return e.Path + ": " + reason(e.Err), nil
	case *os.LinkError:
		return e.New + ": " + reason(e.Err), nil
	}
	text = err.Error()
	var inner error
	switch u := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() error }:
		inner = u.Unwrap()
	case interface{ Unwrap() []error }:
		if all := u.Unwrap(); len(all) > 0 {
			inner = all[0]
		}
	}
	if inner == nil {
		return reason(err), nil
	}
	told, hints := describe(inner)
	return strings.Replace(text, inner.Error(), told, 1), hints
}

// reason spells the errors of the operating system in words.
func reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file or folder"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	case errors.Is(err, fs.ErrExist):
		return "exists already"
	case errors.Is(err, syscall.ENOSPC):
		return "the disk is full"
	case errors.Is(err, syscall.EFBIG):
		return "the system limits the size of files"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the file ends in the middle"
	}
	return err.Error()
}

// sentence starts with a capital and ends with a stop, unless it is a command to type.
func sentence(s string) string {
	s = strings.TrimSpace(s)
	if s == "" {
		return s
	}
	if strings.HasPrefix(s, "pare ") || strings.HasPrefix(s, "--") {
		return s
	}
	r, n := utf8.DecodeRuneInString(s)
	s = string(unicode.ToUpper(r)) + s[n:]
	if !strings.ContainsAny(s[len(s)-1:], ".!?:)") {
		s += "."
	}
	return s
}

// unknownVerb is the root's argument check: a word that is no verb.
func (a *app) unknownVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return unknown(cmd, args[0])
}

// unknown reports a word that is no subcommand, with the nearest one.
func unknown(cmd *cobra.Command, word string) error {
	var verbs []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			verbs = append(verbs, c.Name())
		}
	}
	if near := human.Nearest(word, verbs); near != "" {
		return misusef("unknown verb %q; did you mean %q?   (%s --help lists all)", word, near, cmd.CommandPath())
	}
	return misusef("unknown verb %q   (%s --help lists all)", word, cmd.CommandPath())
}

// flagError rewords what the flag parser found.
func flagError(cmd *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	var missing *pflag.NotExistError
	var value *pflag.InvalidValueError
	var empty *pflag.ValueRequiredError
	see := cmd.CommandPath() + " --help"
	switch {
	case errors.As(err, &missing):
		if missing.GetSpecifiedShortnames() != "" {
			return misuse(see+" lists what it knows", "unknown flag -%s", missing.GetSpecifiedName())
		}
		var known []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				known = append(known, f.Name)
			}
		})
		if near := human.Nearest(missing.GetSpecifiedName(), known); near != "" {
			return misuse(see+" lists what it knows", "unknown flag --%s; did you mean --%s?", missing.GetSpecifiedName(), near)
		}
		return misuse(see+" lists what it knows", "unknown flag --%s", missing.GetSpecifiedName())
	case errors.As(err, &value):
		f := value.GetFlag()
		cause := errors.Unwrap(value)
		if errors.Is(cause, fault.ErrMisuse) { // it says what is wrong in full
			return flagFault(f.Name, cause)
		}
		if wants := map[string]string{
			"int": "a whole number", "uint64": "a whole number from 0", "float64": "a number", "bool": "true or false", "int32Slice": "token ids such as 1,15,27",
			"intSlice": "whole numbers such as 1,15,27",
		}[f.Value.Type()]; wants != "" {
			return flagFault(f.Name, fmt.Errorf("%q is not %s", value.GetValue(), wants))
		}
		return flagFault(f.Name, cause)
	case errors.As(err, &empty):
		return misuse(see+" lists what it knows", "--%s needs a value", empty.GetFlag().Name)
	}
	return misuse(see+" lists what it knows", "%s", err.Error())
}

// exactly makes an argument check that names what is missing or too much.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return misuse(cmd.CommandPath()+" --help has an example", "%s needs %s", cmd.CommandPath(), strings.Join(names[len(args):], " and "))
		}
		if len(args) > len(names) {
			return extra(cmd, args[len(names)])
		}
		return nil
	}
}

// atMost makes an argument check for optional arguments.
func atMost(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return extra(cmd, args[n])
		}
		return nil
	}
}

func extra(cmd *cobra.Command, arg string) error {
	return misuse(cmd.CommandPath()+" --help has an example", "%s does not know what to do with %q", cmd.CommandPath(), arg)
}
