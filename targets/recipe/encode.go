package recipe

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/runner/verify"
)

// MarshalText makes an adapter a string in JSON, as it is in TOML.
func (a Adapter) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (a *Adapter) UnmarshalText(b []byte) error {
	got, err := ParseAdapter(string(b))
	*a = got
	return err
}

// TOML spells the recipe as a file that Parse reads back to an equal recipe. Fields that say
// nothing are left out; the order is that of the struct, so equal recipes give equal bytes.
func (r *Recipe) TOML() []byte {
	var b strings.Builder
	v := reflect.ValueOf(r).Elem()
	for i := range v.NumField() {
		name, f := tagName(v.Type().Field(i)), v.Field(i)
		switch f.Kind() {
		case reflect.Slice:
			for k := range f.Len() {
				section(&b, "[["+name+"]]", fields(f.Index(k)))
			}
		case reflect.Map:
			if name == "preprocess" {
				for _, k := range sortedKeys(r.Preprocess) {
					section(&b, "["+name+"."+quote(k)+"]", fields(reflect.ValueOf(r.Preprocess[k])))
				}
				continue
			}
			var lines []string
			for _, k := range sortedKeys(r.Gate) {
				lines = append(lines, k+" = "+literal(reflect.ValueOf(r.Gate[k])))
			}
			section(&b, "["+name+"]", lines)
		case reflect.Pointer:
			if !f.IsNil() {
				section(&b, "["+name+"]", fields(f.Elem()))
			}
		default:
			section(&b, "["+name+"]", fields(f))
		}
	}
	return []byte(b.String())
}

func section(b *strings.Builder, head string, lines []string) {
	if len(lines) == 0 {
		return
	}
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	b.WriteString(head + "\n" + strings.Join(lines, "\n") + "\n")
}

func fields(v reflect.Value) (lines []string) {
	for i := range v.NumField() {
		if f := v.Field(i); !f.IsZero() {
			lines = append(lines, tagName(v.Type().Field(i))+" = "+literal(f))
		}
	}
	return lines
}

func literal(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case Adapter:
		return quote(x.String())
	case Ratio:
		s := strconv.FormatFloat(float64(x), 'g', -1, 64)
		if !strings.ContainsAny(s, ".e") {
			s += ".0"
		}
		return s
	case Share:
		return "{ " + strings.Join(fields(v), ", ") + " }"
	case string:
		return quote(x)
	}
	switch v.Kind() {
	case reflect.Pointer:
		return literal(v.Elem())
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = literal(v.Index(i))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return fmt.Sprint(v.Interface()) // whole numbers and booleans
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < 0x20 || c == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// JSONSchema describes recipe files (draft 2020-12), for editors and for `pare check --schema`.
func JSONSchema() map[string]any {
	s := schema(reflect.TypeFor[Recipe](), "")
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "pare recipe"
	return s
}

func schema(t reflect.Type, enum string) map[string]any {
	ratio := map[string]any{"anyOf": []any{
		map[string]any{"type": "number"},
		map[string]any{"type": "string", "pattern": `^\s*[0-9.eE+-]+\s*%?\s*$`},
	}}
	switch t {
	case reflect.TypeFor[Adapter]():
		return map[string]any{"type": "string"}
	case reflect.TypeFor[Ratio]():
		return ratio
	case reflect.TypeFor[Gate]():
		props := map[string]any{}
		for name, doc := range verify.GateNames {
			p := map[string]any{"description": doc}
			for k, v := range ratio {
				p[k] = v
			}
			props[name] = p
		}
		return map[string]any{"type": "object", "properties": props, "additionalProperties": false}
	}
	switch t.Kind() {
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schema(t.Elem(), "")}
	case reflect.Pointer:
		return schema(t.Elem(), enum)
	case reflect.Struct:
		props := map[string]any{}
		var required []any
		for i := range t.NumField() {
			f := t.Field(i)
			p := schema(f.Type, f.Tag.Get("enum"))
			p["description"] = f.Tag.Get("doc")
			props[tagName(f)] = p
			if t != reflect.TypeFor[Recipe]() && !strings.Contains(f.Tag.Get("json"), "omitempty") {
				required = append(required, tagName(f))
			}
		}
		s := map[string]any{"type": "object", "properties": props, "additionalProperties": false}
		if required != nil {
			s["required"] = required
		}
		return s
	case reflect.Slice:
		item := schema(t.Elem(), enum)
		if t.Elem().Kind() == reflect.Struct && t.Elem() != reflect.TypeFor[Adapter]() {
			return map[string]any{"type": "array", "items": item}
		}
		return map[string]any{"anyOf": []any{map[string]any{"type": "array", "items": item}, item}} // one value is a list of one
	case reflect.String:
		s := map[string]any{"type": "string"}
		if enum != "" {
			var list []any
			for _, w := range words(enum) {
				list = append(list, w)
			}
			s["enum"] = list
		}
		return s
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0}
	}
	panic("recipe: no schema for " + t.String())
}
