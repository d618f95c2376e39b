package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker for releases (-ldflags "-X main.version=1.2.3").
var version = "0.1.0"

// revision is the commit the binary was built from, or empty.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	rev, dirty := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			rev = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "+changes"
			}
		}
	}
	if v := info.Main.Version; rev == "" && v != "(devel)" {
		return v // of go install, which takes a released module and no repository
	}
	return rev + dirty
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version and how the binary was built",
		Example: `  pare version
  pare version --output json`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			o := struct {
				Schema   int    `json:"schema"`
				Version  string `json:"version"`
				Revision string `json:"revision,omitempty"`
				Go       string `json:"go"`
				OS       string `json:"os"`
				Arch     string `json:"arch"`
			}{1, version, revision(), runtime.Version(), runtime.GOOS, runtime.GOARCH}
			t := &table{head: []string{"version", "revision", "go", "os", "arch"}}
			t.add(o.Version, o.Revision, o.Go, o.OS, o.Arch)
			return a.show(result{object: o, table: t, text: func(w io.Writer) {
				fmt.Fprintf(w, "pare %s  %s %s/%s", o.Version, o.Go, o.OS, o.Arch)
				if o.Revision != "" {
					fmt.Fprintf(w, "  %s", o.Revision)
				}
				fmt.Fprintln(w)
			}})
		},
	}
}
