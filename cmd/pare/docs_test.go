package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var top = filepath.Join(home, "..", "..")

// docs are the files whose command lines are run, in this order, in one folder with the sample.
// docs/cli.md comes first, docs/recipe.md before docs/ci.md: they make files that others use.
func docs(t *testing.T) []string {
	t.Helper()
	more, err := filepath.Glob(filepath.Join(top, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	files := []string{filepath.Join(top, "docs", "cli.md"), filepath.Join(top, "README.md"), filepath.Join(top, "CONTRIBUTING.md"), filepath.Join(top, "docs", "recipe.md")}
	for _, f := range more {
		if !slices.Contains(files, f) {
			files = append(files, f)
		}
	}
	return files
}

// command finds a line that a reader is told to type; "# exit code 3" at its end is checked.
var command = regexp.MustCompile(`^\s*(?:\$ |- run: |- )?pare ([^|]*)$`)

// words splits a command line as a shell does, quotes included, and takes "> file" off.
func words(line string) (args []string, to string) {
	line, _, _ = strings.Cut(line, " #")
	for _, m := range regexp.MustCompile(`"([^"]*)"|'([^']*)'|(\S+)`).FindAllStringSubmatch(line, -1) {
		args = append(args, m[1]+m[2]+m[3])
	}
	if i := slices.Index(args, ">"); i >= 0 {
		args, to = args[:i], args[i+1]
	}
	return args, to
}

// line is a command of a document: where it stands, and the exit code that it says.
type line struct {
	at, text, to string
	args         []string
	code         int
}

// commands are the lines that the documents tell to type, each once. The tour on the built-in model
// is left out: it takes as long as all others together, and is a step of the pipeline of its own.
func commands(t *testing.T) (lines []line) {
	t.Helper()
	seen := map[string]bool{}
	for _, file := range docs(t) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		fenced := false
		text := strings.ReplaceAll(string(b), "\\\n", " ")
		for n, s := range strings.Split(text, "\n") {
			if strings.HasPrefix(strings.TrimSpace(s), "```") {
				fenced = !fenced
				continue
			}
			m := command.FindStringSubmatch(s)
			if m == nil || !fenced && !strings.HasPrefix(s, "    $ ") {
				continue
			}
			l := line{at: fmt.Sprintf("%s:%d", filepath.Base(file), n+1), text: m[1]}
			l.args, l.to = words(m[1])
			key := shellLine(append(l.args, l.to))
			if len(l.args) == 0 || seen[key] || slices.Equal(l.args, []string{"demo"}) {
				continue
			}
			seen[key] = true
			if _, code, ok := strings.Cut(m[1], "# exit code "); ok {
				if l.code, err = strconv.Atoi(strings.TrimSpace(code)); err != nil {
					t.Fatal(err)
				}
			}
			lines = append(lines, l)
		}
	}
	return lines
}

// Every pare command in the documents works as it stands there. The environment makes each do
// less: a reader who types them waits longer and gets better numbers. Of fewer than eight chunks a gate
// concludes nothing, and the build would read more of them, or end in exit code 3. explain concludes nothing anyway.
func TestDocsCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("runs every command of the documents")
	}
	dir := sample(t)
	for name, from := range map[string]string{"graphs": "graphs", "bert": "architectures/bert"} {
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(filepath.Join(top, "testdata", filepath.FromSlash(from)))); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"PARE_TOKENS": "1024", "PARE_CHUNKS": "8", "PARE_WRITE": "16", "PARE_REPEAT": "2", "PARE_NO_BENCH": "true"}
	ranking := maps.Clone(env)
	ranking["PARE_CHUNKS"], ranking["PARE_CONTEXT"] = "1", "128"
	lines := commands(t)
	if len(lines) < 30 {
		t.Errorf("only %d commands were found", len(lines))
	}
	for _, l := range lines {
		t.Run(l.at+" "+l.text, func(t *testing.T) {
			env := env
			if l.args[0] == "explain" {
				env = ranking
			}
			if strings.Contains(l.text, "graphs/") || strings.Contains(l.text, "bert") { // they take none of those, and little time
				env = nil
			}
			d := pareEnv(t, dir, env, l.args...)
			if d.code != l.code {
				t.Errorf("exit code %d, want %d\n%s", d.code, l.code, d.err)
			}
			if l.to != "" {
				if err := os.WriteFile(filepath.Join(dir, l.to), []byte(d.out), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// docs/cli.md is what the command tree says.
func TestDocsAreCurrent(t *testing.T) {
	var b bytes.Buffer
	a := newApp(nil, &b, &b, os.Getenv)
	writeDocs(&b, a.root())
	file := filepath.Join(top, "docs", "cli.md")
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, b.Bytes()) {
		t.Errorf("docs/cli.md is not current (%v); make docs", err)
	}
}

// Links between documents, and to files of the repository, lead somewhere.
func TestDocsLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)
	adrs, _ := filepath.Glob(filepath.Join(top, "docs", "adr", "*.md"))
	for _, file := range append(docs(t), append(adrs, filepath.Join(top, "SECURITY.md"))...) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), filepath.FromSlash(m[1]))); err != nil {
				t.Errorf("%s: %s leads nowhere", filepath.Base(file), m[1])
			}
		}
	}
}

// Every make target that a document names exists.
func TestDocsMakeTargets(t *testing.T) {
	mk, err := os.ReadFile(filepath.Join(top, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range docs(t) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?:`|\\$ |\\s{4})make ([a-z-]+)").FindAllStringSubmatch(string(b), -1) {
			if !bytes.Contains(mk, []byte("\n"+m[1]+":")) {
				t.Errorf("%s: there is no make %s", filepath.Base(file), m[1])
			}
		}
	}
}

// The pipeline of docs/ci.md hangs together: it keys its cache on the recipe that it builds, keeps
// the work folder that it builds in, and uploads files of the folder that it builds to.
func TestDocsPipeline(t *testing.T) {
	text := readFile(t, filepath.Join(top, "docs", "ci.md"))
	_, text, _ = strings.Cut(text, "```yaml\n")
	text, _, ok := strings.Cut(text, "```")
	build := regexp.MustCompile(`(?m)- run: pare build -r (\S+) .*--work (\S+) -o (\S+)$`).FindStringSubmatch(text)
	if !ok || build == nil {
		t.Fatal("docs/ci.md has no pipeline with pare build")
	}
	recipe, work, out := build[1], build[2], build[3]
	keys := regexp.MustCompile(`hashFiles\('([^']*)'\)`).FindAllStringSubmatch(text, -1)
	if len(keys) == 0 {
		t.Error("no cache key")
	}
	for _, m := range keys {
		if m[1] != recipe {
			t.Errorf("the cache is keyed on %s, built is %s", m[1], recipe)
		}
	}
	steps := regexp.MustCompile(`(?ms)uses: actions/(cache|upload-artifact).*?\n +path: (.*?)\n +(?:- |key)`).FindAllStringSubmatch(text+"      - ", -1)
	if len(steps) != 4 {
		t.Errorf("%d steps with a path, want restore, save, report and packages", len(steps))
	}
	for _, m := range steps {
		for line := range strings.SplitSeq(strings.TrimPrefix(m[2], "|\n"), "\n") {
			path := strings.TrimSpace(line)
			if in := strings.HasPrefix(path, out+"/"); m[1] == "cache" && path != work || m[1] != "cache" && !in || strings.ContainsAny(path, " ,\"") {
				t.Errorf("%s: path %q; one path a line, in %s or %s", m[1], path, work, out)
			}
		}
	}
}

// docs/recipe.md names every key of a recipe, and no others.
func TestDocsRecipeKeys(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(top, "docs", "recipe.md"))
	if err != nil {
		t.Fatal(err)
	}
	schema := readFile(t, schemaFile("recipe"))
	for _, m := range regexp.MustCompile(`(?m)^\s+"([a-z_0-9]+)": \{$`).FindAllStringSubmatch(schema, -1) {
		if key := m[1]; key != "properties" && key != "items" && !bytes.Contains(b, []byte("`"+key+"`")) {
			t.Errorf("docs/recipe.md does not name %s", key)
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_0-9]+)` \\|").FindAllSubmatch(b, -1) {
		if !strings.Contains(schema, `"`+string(m[1])+`": {`) {
			t.Errorf("docs/recipe.md names %s, which recipes do not have", m[1])
		}
	}
}
