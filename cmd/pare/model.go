package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/targets/pack"
)

// openModel opens whatever lies at a path: a model in any format, or a package, whose digests are
// checked.
func (a *app) openModel(ctx context.Context, path string) (*ir.Model, error) {
	m, man, err := pack.OpenAny(ctx, path, nil)
	if err == nil {
		a.budget.opened(path, m)
	}
	if man != nil && m.Graph != nil {
		a.packed = man.Inputs()
	}
	return m, err
}

// loaded is a model that runs, with its tokenizer.
type loaded struct {
	model  *ir.Model
	runner *runner.Runner
	tok    *tokenizer.Tokenizer // nil when the model has none
}

func (l *loaded) Close() {
	l.runner.Close()
	_ = l.model.Close() // read only
}

// loadOpened prepares an open model for execution, and closes it when that fails.
func (a *app) loadOpened(ctx context.Context, path string, m *ir.Model, opt runner.Options) (*loaded, error) {
	a.budget.shares = 1
	if err := a.affordRun("run", 0, opt, m); err != nil {
		return nil, errors.Join(inFile(path, err), m.Close())
	}
	return a.prepare(ctx, path, m, opt)
}

// openPair opens two models that are going to run side by side.
func (a *app) openPair(ctx context.Context, first, second string) (m, n *ir.Model, err error) {
	a.budget.shares = 2
	if m, err = a.openModel(ctx, first); err != nil {
		return nil, nil, err
	}
	if n, err = a.openModel(ctx, second); err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	return m, n, nil
}

// preparePair makes two open models ready for execution, and closes them when that fails.
func (a *app) preparePair(ctx context.Context, op string, opt runner.Options, m, n *ir.Model, first, second string) (x, y *loaded, err error) {
	if err := a.affordRun(op, 0, opt, m, n); err != nil {
		return nil, nil, errors.Join(err, m.Close(), n.Close())
	}
	if x, err = a.prepare(ctx, first, m, opt); err != nil {
		return nil, nil, errors.Join(err, n.Close())
	}
	if y, err = a.prepare(ctx, second, n, opt); err != nil {
		x.Close()
		return nil, nil, err
	}
	return x, y, nil
}

// prepare makes an open model ready for execution, and closes it when that fails.
func (a *app) prepare(ctx context.Context, path string, m *ir.Model, opt runner.Options) (*loaded, error) {
	r, err := a.execute(ctx, m, opt)
	if err != nil {
		return nil, errors.Join(inFile(path, err), m.Close())
	}
	a.warn(path, m)
	l := &loaded{model: m, runner: r}
	if m.Tokenizer != nil {
		if l.tok, err = tokenizerOf(m, path); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

// tokenizerOf makes the tokenizer of an open model.
func tokenizerOf(m *ir.Model, path string) (*tokenizer.Tokenizer, error) {
	if m.Tokenizer == nil {
		return nil, &fault.Error{File: path, Err: m.CannotRead()}
	}
	tok, err := tokenizer.New(m.Tokenizer)
	return tok, inFile(path, err)
}

// execute prepares an open model for execution with the options that every verb has.
func (a *app) execute(ctx context.Context, m *ir.Model, opt runner.Options) (*runner.Runner, error) {
	opt.Threads, opt.ISA, opt.Work = a.threads, a.level, a.work
	opt.Memory, opt.Pool = a.share(), a.workers()
	return runner.Load(ctx, m, opt)
}

// workers are shared by the models that run, which compute in turns.
func (a *app) workers() *par.Pool {
	if a.pool == nil {
		a.pool = par.NewPool(a.threads)
	}
	return a.pool
}

// inFile names the file in an error that names none.
func inFile(path string, err error) error {
	var fe *fault.Error
	if err == nil || errors.Is(err, context.Canceled) || errors.As(err, &fe) && fe.File != "" {
		return err
	}
	return &fault.Error{File: path, Err: err}
}

// inFileEach is inFile for every error of a list.
func inFileEach(path string, err error) error {
	var list []error
	for _, e := range flatten(err) {
		list = append(list, inFile(path, e))
	}
	return errors.Join(list...)
}

// warn tells what reading a model found, before its numbers are believed.
func (a *app) warn(path string, m *ir.Model) {
	for _, p := range m.Problems {
		if p.Tensor != "" {
			p.Reason = p.Tensor + ": " + p.Reason
		}
		a.progressSink().Note("", path+": "+p.Reason)
	}
	a.stopProgress() // shown now, not after the work
}

func (l *loaded) tokenizer(path string) (*tokenizer.Tokenizer, error) {
	if l.tok == nil {
		return nil, &fault.Error{File: path, Err: l.model.CannotRead(), Hint: "give token ids with --tokens"}
	}
	return l.tok, nil
}

// readTexts joins text files in order.
func readTexts(files []string) ([]byte, error) {
	var all []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fault.As(fault.ErrMisuse, err)
		}
		if !human.IsText(b) {
			return nil, &fault.Error{File: f, Err: misusef("this is no text: it holds zero bytes, or is not UTF-8"), Hint: "give a plain text file"}
		}
		all = append(all, b...)
	}
	return all, nil
}

// textName is how a text is called in a report.
func textName(files []string) string {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = filepath.Base(f)
	}
	return strings.Join(names, " + ")
}

// plural spells a count with its noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
