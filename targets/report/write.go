package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// JSON is the record itself, indented; docs/schema/build.schema.json describes it.
func (r *Report) JSON() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return b.Bytes(), nil
}

// Files renders the report in every form that travels with a package: report.json, report.md and
// report.html.
func (r *Report) Files() (map[string][]byte, error) {
	record, err := r.JSON()
	if err != nil {
		return nil, err
	}
	page, err := r.HTML()
	if err != nil {
		return nil, err
	}
	return map[string][]byte{"report.json": record, "report.md": r.Markdown(), "report.html": page}, nil
}

// FileNames are the files that Write makes.
var FileNames = []string{"report.json", "report.md", "report.html", "junit.xml"}

// Write puts the report's files and junit.xml into dir, each complete or not at all.
func (r *Report) Write(dir string) error {
	files, err := r.Files()
	if err != nil {
		return err
	}
	if files["junit.xml"], err = r.JUnit(); err != nil {
		return err
	}
	for _, name := range FileNames {
		to := filepath.Join(dir, name)
		if err := os.WriteFile(to+".tmp", files[name], 0o644); err != nil {
			return err
		}
		if err := os.Rename(to+".tmp", to); err != nil {
			return err
		}
	}
	return nil
}

// Read parses a report.json.
func Read(file string) (*Report, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var r Report
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s is not a report: %w", file, err)
	}
	if r.Schema == 0 || r.Tool == "" {
		return nil, fmt.Errorf("%s is not a report", file)
	}
	return &r, nil
}

// recipeText is the resolved recipe as a person would write it.
func (r *Report) recipeText() string {
	if r.Recipe == nil {
		return ""
	}
	return string(r.Recipe.TOML())
}
