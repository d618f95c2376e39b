package recipe

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/prune"
	"github.com/pare-dev/pare/prune/channels"
	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/runner/verify"
)

// maxFile bounds a recipe file; real ones have a few hundred bytes.
const maxFile = 1 << 20

// Load reads a recipe file. Relative paths in it are relative to the file's folder.
func Load(path string) (*Recipe, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &fault.Error{File: path, Op: "recipe", Err: fault.As(fault.ErrMisuse, err)}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, &fault.Error{File: path, Op: "recipe", Err: err}
	}
	r, err := Parse(path, b)
	if err != nil {
		return nil, err
	}
	r.rebase(filepath.Dir(path))
	return r, nil
}

// Parse reads a recipe from TOML text; name stands for the file in messages. Every mistake is
// reported, not only the first: each is a *fault.Error of class fault.ErrMisuse with the line.
func Parse(name string, text []byte) (*Recipe, error) {
	if len(text) > maxFile {
		return nil, &fault.Error{File: name, Err: misuse("a recipe of more than %s is not a recipe", human.Bytes(maxFile))}
	}
	var tree map[string]any
	if _, err := toml.Decode(string(text), &tree); err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return nil, &fault.Error{File: fmt.Sprintf("%s:%d", name, pe.Position.Line), Err: misuse("not TOML: %s", pe.Message)}
		}
		return nil, &fault.Error{File: name, Err: fault.As(fault.ErrMisuse, err)}
	}
	d := &decoder{file: name, lines: positions(string(text))}
	r := &Recipe{}
	d.value("", "", tree, reflect.ValueOf(r).Elem(), "")
	if err := errors.Join(d.errs...); err != nil {
		return nil, err
	}
	return r, nil
}

// decoder fills a Recipe from parsed TOML by the json tags, collecting mistakes.
type decoder struct {
	file  string
	lines map[string]int
	errs  []error
}

// fail records a mistake at the line of path, or of the nearest enclosing table.
func (d *decoder) fail(path, hint, format string, a ...any) {
	at := d.file
	for p := path; p != ""; p = p[:max(strings.LastIndexAny(p, ".["), 0)] {
		if line, ok := d.lines[p]; ok {
			at = fmt.Sprintf("%s:%d", d.file, line)
			break
		}
	}
	d.errs = append(d.errs, &fault.Error{File: at, Err: misuse(format, a...), Hint: hint})
}

// words are what an enum tag allows: a list, or the names in a registry.
func words(enum string) []string {
	switch enum {
	case "@passes":
		list := []string{"lora.merge", channels.Pass}
		for _, name := range prune.MethodNames() {
			list = append(list, prune.Prefix+name)
		}
		return list
	case "@scores":
		list := append(prune.Scores(), channels.Scores()...)
		slices.Sort(list)
		return slices.Compact(list)
	case "@methods":
		return append(quantize.MethodNames(), calib.MethodNames()...)
	}
	return strings.Split(enum, ",")
}

// value stores v, as TOML gave it, into out. section is the enclosing table for messages and enum
// the comma-separated words a string may be.
func (d *decoder) value(path, section string, v any, out reflect.Value, enum string) {
	key := path[strings.LastIndexByte(path, '.')+1:]
	wrong := func(want string) { d.fail(path, "", "%s in %s must be %s, not %s", key, section, want, kind(v)) }
	switch out.Interface().(type) {
	case Adapter:
		s, ok := v.(string)
		if !ok {
			wrong("a string")
			return
		}
		a, err := ParseAdapter(s)
		if err != nil {
			d.fail(path, "", "%v", err)
		}
		out.Set(reflect.ValueOf(a))
		return
	case Ratio:
		if r, ok := d.ratio(path, section, v); ok {
			out.SetFloat(r)
		}
		return
	case Gate:
		d.gate(path, v, out)
		return
	case Inputs:
		d.inputs(path, v, out)
		return
	}
	switch out.Kind() {
	case reflect.Pointer:
		p := reflect.New(out.Type().Elem())
		d.value(path, section, v, p.Elem(), enum)
		out.Set(p)
	case reflect.Struct:
		m, ok := v.(map[string]any)
		if !ok {
			wrong("a table")
			return
		}
		d.table(path, m, out)
	case reflect.Slice:
		d.list(path, section, v, out, enum)
	case reflect.String:
		s, ok := v.(string)
		if !ok {
			wrong("a string")
			return
		}
		if words := words(enum); enum != "" && !slices.Contains(words, s) {
			d.fail(path, suggest(s, words), "%s in %s cannot be %q; choose %s", key, section, s, strings.Join(words, ", "))
			return
		}
		out.SetString(s)
	case reflect.Bool:
		b, ok := v.(bool)
		if !ok {
			wrong("true or false")
			return
		}
		out.SetBool(b)
	case reflect.Int, reflect.Uint64:
		n, ok := v.(int64)
		if !ok || n != int64(int32(n)) && out.Kind() == reflect.Int {
			wrong("a whole number")
			return
		}
		if n < 0 {
			d.fail(path, "", "%s in %s must not be negative", key, section)
			return
		}
		if out.Kind() == reflect.Int {
			out.SetInt(n)
		} else {
			out.SetUint(uint64(n)) //nolint:gosec // not negative
		}
	default:
		panic("recipe: no decoder for " + out.Type().String())
	}
}

// table fills a struct; unknown keys name the nearest known one.
func (d *decoder) table(path string, m map[string]any, out reflect.Value) {
	section := sectionName(path)
	known := map[string]int{}
	for i := range out.NumField() {
		known[tagName(out.Type().Field(i))] = i
	}
	for _, k := range sortedKeys(m) {
		at := join(path, k)
		i, ok := known[k]
		if !ok {
			d.unknown(at, k, section, sortedKeys(known))
			continue
		}
		f := out.Type().Field(i)
		d.value(at, section, m[k], out.Field(i), f.Tag.Get("enum"))
		delete(known, k)
	}
	for k, i := range known { // what a table cannot do without
		if f := out.Type().Field(i); path != "" && !strings.Contains(f.Tag.Get("json"), "omitempty") && f.Type.Kind() != reflect.Struct {
			d.fail(path, "", "%s needs %s: %s", section, k, f.Tag.Get("doc"))
		}
	}
}

func (d *decoder) unknown(path, key, section string, known []string) {
	hint := suggest(key, known)
	if hint == "" {
		hint = "known: " + strings.Join(known, ", ")
	}
	where := "at the top level"
	if section != "" {
		where = "in " + section
	}
	d.fail(path, hint, "unknown key %q %s", key, where)
}

// list fills a slice from an array, or from one value: `only = "*.mlp.*"` is a list of one.
func (d *decoder) list(path, section string, v any, out reflect.Value, enum string) {
	var items []any
	switch v := v.(type) {
	case []any:
		items = v
	case []map[string]any:
		for _, m := range v {
			items = append(items, m)
		}
	case map[string]any:
		d.fail(path, "", "[%s] is a list of tables: write [[%s]]", path, path)
		return
	default:
		items = []any{v}
	}
	s := reflect.MakeSlice(out.Type(), len(items), len(items))
	for i, item := range items {
		d.value(fmt.Sprintf("%s[%d]", path, i), section, item, s.Index(i), enum)
	}
	out.Set(s)
}

func (d *decoder) ratio(path, section string, v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		if v-v == 0 {
			return v, true
		}
	case int64:
		return float64(v), true
	case string:
		r, err := human.ParseRatio(v)
		if err == nil {
			return r, true
		}
	}
	d.fail(path, "", "%s in %s is not a ratio; write 0.5 or \"50%%\"", path[strings.LastIndexByte(path, '.')+1:], section)
	return 0, false
}

func (d *decoder) gate(path string, v any, out reflect.Value) {
	m, ok := v.(map[string]any)
	if !ok {
		d.fail(path, "", "gate must be a table of limits")
		return
	}
	g := Gate{}
	for _, k := range sortedKeys(m) {
		at := join(path, k)
		if _, ok := verify.GateNames[k]; !ok {
			d.unknown(at, k, "[gate]", sortedKeys(verify.GateNames))
			continue
		}
		if r, ok := d.ratio(at, "[gate]", m[k]); ok {
			if err := verify.CheckLimits(verify.Limits{k: r}); err != nil {
				d.fail(at, "", "%v", err)
				continue
			}
			g[k] = Ratio(r)
		}
	}
	out.Set(reflect.ValueOf(g))
}

func (d *decoder) inputs(path string, v any, out reflect.Value) {
	m, ok := v.(map[string]any)
	if !ok {
		d.fail(path, "", "preprocess must be tables: write [preprocess.NAME] with the name of an input")
		return
	}
	all := Inputs{}
	for _, name := range sortedKeys(m) {
		at := join(path, name)
		table, ok := m[name].(map[string]any)
		if !ok {
			d.fail(at, "write [preprocess.NAME] above it, with the name of an input", "%s is no input of a graph", name)
			continue
		}
		var p Preprocess
		d.table(at, table, reflect.ValueOf(&p).Elem())
		all[name] = p
	}
	out.Set(reflect.ValueOf(all))
}

func checkGate(name string) error {
	known := sortedKeys(verify.GateNames)
	if slices.Contains(known, name) {
		return nil
	}
	hint := suggest(name, known)
	if hint == "" {
		hint = "choose " + strings.Join(known, ", ")
	}
	return &fault.Error{Op: "gate", Err: misuse("no gate is called %q", name), Hint: hint}
}

// Limits is the gate as the verifier takes it.
func (g Gate) Limits() verify.Limits {
	l := verify.Limits{}
	for k, v := range g {
		l[k] = float64(v)
	}
	return l
}

// rebase makes relative paths of a recipe file relative to where pare runs.
func (r *Recipe) rebase(dir string) {
	fix := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	fix(&r.Source.Model)
	fix(&r.Calibration.Imatrix)
	for i := range r.Source.Adapters {
		fix(&r.Source.Adapters[i].Path)
	}
	for i := range r.Calibration.Text {
		fix(&r.Calibration.Text[i])
	}
	for i := range r.Verify.Text {
		fix(&r.Verify.Text[i])
	}
	if d := r.Distill; d != nil {
		for i := range d.Text {
			fix(&d.Text[i])
		}
		if d.Teacher != "none" {
			fix(&d.Teacher)
		}
	}
	fix(&r.Verify.Labels)
	for _, list := range [][]string{r.Calibration.Samples, r.Verify.Samples} {
		for i, s := range list {
			list[i] = rebaseSample(s, fix)
		}
	}
	for name, p := range r.Preprocess {
		fix(&p.Tokenizer)
		if strings.ContainsAny(p.Value, "./\\") && !isNumber(p.Value) {
			fix(&p.Value)
		}
		r.Preprocess[name] = p
	}
}

// rebaseSample makes the file of "FILE" or "INPUT=FILE" relative to where pare runs. What is no file stays: a
// number, zeros and ones.
func rebaseSample(s string, fix func(*string)) string {
	name, file, named := strings.Cut(s, "=")
	if !named {
		name, file = "", s
	}
	if !isNumber(file) && file != "zeros" && file != "ones" {
		fix(&file)
	}
	if named {
		return name + "=" + file
	}
	return file
}

func isNumber(s string) bool {
	_, err := strconv.ParseFloat(s, 64)
	return err == nil
}

func misuse(format string, a ...any) error {
	return fault.As(fault.ErrMisuse, fmt.Errorf(format, a...))
}

func suggest(word string, known []string) string {
	if near := human.Nearest(word, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return ""
}

func kind(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case int64, float64:
		return "a number"
	case map[string]any:
		return "a table"
	case []any, []map[string]any:
		return "a list"
	}
	return "a date"
}

// sectionName spells the table of a path as the file does: "target[1]" is [[target]].
func sectionName(path string) string {
	if path == "" {
		return ""
	}
	if i := strings.IndexByte(path, '['); i >= 0 {
		return "[[" + path[:i] + "]]"
	}
	return "[" + path + "]"
}

func tagName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
