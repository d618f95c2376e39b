package report

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var (
	shard    = regexp.MustCompile(`-\d{5}-of-\d{5}$`)
	snapshot = regexp.MustCompile(`^[0-9a-f]{40}$`)
	// generic are names of folders and files that say nothing about the model in them.
	generic = []string{
		".", "..", "", "model", "models", "base", "merged", "checkpoint", "snapshots", "final", "output", "weights",
		"pytorch_model", "consolidated", "diffusion_pytorch_model",
	}
)

// modelName is how people call the model at a path: the last part that is a name. A download cache
// spells "models--owner--name/snapshots/digest", a repository often "name/model/model.safetensors".
func modelName(path string) string {
	if abs, err := filepath.Abs(path); err == nil && slices.Contains([]string{".", ".."}, filepath.Base(filepath.Clean(path))) {
		path = abs
	}
	parts := strings.Split(filepath.ToSlash(filepath.Clean(path)), "/")
	for i := len(parts) - 1; i >= 0; i-- {
		name := parts[i]
		for _, ext := range []string{".gguf", ".safetensors", ".bin", ".onnx", ".pare"} {
			name = strings.TrimSuffix(name, ext)
		}
		name = shard.ReplaceAllString(name, "")
		if repo, ok := strings.CutPrefix(name, "models--"); ok {
			return strings.Replace(repo, "--", "/", 1)
		}
		if !slices.Contains(generic, strings.ToLower(name)) && !snapshot.MatchString(name) {
			return name
		}
	}
	return "model"
}
