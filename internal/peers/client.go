package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// client is a program that answers lines: a command goes in, "ok" and what was asked for come out. A
// program that ends instead said why on standard error.
type client struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	said strings.Builder
}

// start runs a program; env is added to the environment.
func start(ctx context.Context, env []string, name string, args ...string) (*client, error) {
	c := &client{name: name, cmd: exec.CommandContext(ctx, name, args...)}
	c.cmd.Env = append(os.Environ(), env...)
	c.cmd.Stderr = &c.said
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	return c, nil
}

// close ends the program by ending its input.
func (c *client) close() {
	if c != nil {
		_ = c.in.Close()
		_ = c.cmd.Wait() // how it ends does not matter any more
	}
}

// ask sends a command and returns the text after "ok".
func (c *client) ask(format string, args ...any) (string, error) {
	if _, err := fmt.Fprintf(c.in, format+"\n", args...); err != nil {
		return "", c.ended(err)
	}
	return c.answer()
}

func (c *client) answer() (string, error) {
	line, err := c.out.ReadString('\n')
	if err != nil {
		return "", c.ended(err)
	}
	text, ok := parseAnswer(line)
	if !ok {
		return "", fmt.Errorf("%s answered %q", c.name, strings.TrimSpace(line))
	}
	return text, nil
}

func parseAnswer(line string) (text string, ok bool) {
	line = strings.TrimSpace(line)
	if line == "ok" {
		return "", true
	}
	return strings.CutPrefix(line, "ok ")
}

// ended turns a broken pipe into what the program said last.
func (c *client) ended(err error) error {
	_ = c.in.Close()
	if wait := c.cmd.Wait(); wait != nil {
		err = wait
	}
	lines := strings.Split(strings.TrimSpace(c.said.String()), "\n")
	if last := lines[len(lines)-1]; last != "" {
		err = errors.New(last)
	}
	return fmt.Errorf("%s: %w", c.name, err)
}

// numbers asks for numbers, at least the given count of them.
func (c *client) numbers(least int, format string, args ...any) ([]float64, error) {
	text, err := c.ask(format, args...)
	if err != nil {
		return nil, err
	}
	return parseNumbers(text, least)
}

func parseNumbers(text string, least int) ([]float64, error) {
	words := strings.Fields(text)
	if len(words) < least {
		return nil, fmt.Errorf("%d numbers came, %d were expected: %q", len(words), least, text)
	}
	out := make([]float64, len(words))
	for i, w := range words {
		v, err := strconv.ParseFloat(w, 64)
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	return out, nil
}

func (c *client) number(format string, args ...any) (float64, error) {
	x, err := c.numbers(1, format, args...)
	if err != nil {
		return 0, err
	}
	return x[0], nil
}
