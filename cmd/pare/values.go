package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pare-dev/pare/internal/human"
)

// choice is a flag that takes one of a few words.
type choice struct {
	value string
	of    []string
}

func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return "WORD" }

func (c *choice) Set(s string) error {
	if !slices.Contains(c.of, s) {
		if near := human.Nearest(s, c.of); near != "" {
			return fmt.Errorf("%q is not a choice; did you mean %q?", s, near)
		}
		return fmt.Errorf("%q is not a choice; take %s", s, strings.Join(c.of, ", "))
	}
	c.value = s
	return nil
}

// size is a flag in bytes: 512MiB.
type size int64

func (s *size) String() string {
	if *s == 0 {
		return ""
	}
	return human.Bytes(int64(*s))
}
func (s *size) Type() string { return "SIZE" }

func (s *size) Set(v string) error {
	n, err := human.ParseSize(v)
	if err == nil {
		*s = size(n)
	}
	return err
}

// ratio is a flag that takes 0.5 or 50%.
type ratio float64

func (r *ratio) String() string {
	if *r == 0 {
		return ""
	}
	return fmt.Sprint(float64(*r))
}
func (r *ratio) Type() string { return "RATIO" }

func (r *ratio) Set(v string) error {
	f, err := human.ParseRatio(v)
	if err != nil {
		return err
	}
	if f < 0 || f > 1 {
		return fmt.Errorf("%q is not between 0 and 1", v)
	}
	*r = ratio(f)
	return nil
}

// environment gives every flag that was not typed the value of PARE_<FLAG>, when there is one.
// It makes the order flags, environment, recipe, defaults.
func (a *app) environment(cmd *cobra.Command) error {
	var err error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || err != nil || f.Name == "help" || f.Annotations[noEnv] != nil {
			return
		}
		name := envName(f.Name)
		v := a.getenv(name)
		if v == "" {
			return
		}
		if e := cmd.Flags().Set(f.Name, v); e != nil {
			err = misusef("%s: %w", name, flagError(cmd, e))
		}
		if f.Annotations == nil {
			f.Annotations = map[string][]string{}
		}
		f.Annotations[fromEnv] = []string{name}
	})
	return err
}

// fromEnv marks flags whose value is that of an environment variable.
const fromEnv = "pare-from-env"

// typed reports flags that stand on the command line. What the environment sets for every verb and model is no
// mistake where it means nothing.
func typed(cmd *cobra.Command) func(flag string) bool {
	return func(flag string) bool {
		f := cmd.Flags().Lookup(flag)
		return f != nil && f.Changed && f.Annotations[fromEnv] == nil
	}
}

// noEnv marks flags that are the work itself, not a way to do it: no environment variable stands in
// for them.
const noEnv = "pare-no-env"

// envName is the environment variable of a flag: max-memory is PARE_MAX_MEMORY.
func envName(flag string) string {
	return "PARE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// complete offers fixed words for a flag.
func complete(cmd *cobra.Command, flag string, words ...string) {
	completeWith(cmd, flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	})
}

func completeWith(cmd *cobra.Command, flag string, fn func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)) {
	if err := cmd.RegisterFlagCompletionFunc(flag, fn); err != nil {
		panic("pare: completion of --" + flag + ": " + err.Error()) // a bug: no such flag
	}
}

// number is a whole number that means nothing below least.
type number struct {
	value *int
	least int
}

func (n number) String() string {
	if n.value == nil {
		return "0"
	}
	return strconv.Itoa(*n.value)
}
func (n number) Type() string { return "int" }

func (n number) Set(s string) error {
	v, err := strconv.Atoi(s)
	if err != nil {
		return err
	}
	if v < n.least {
		return misusef("%d is too few; take %d or more", v, n.least)
	}
	*n.value = v
	return nil
}

// intFrom registers a flag for a whole number from least on.
func intFrom(f *pflag.FlagSet, p *int, name, short string, least, value int, usage string) {
	*p = value
	f.VarP(number{p, least}, name, short, usage)
}
