package formats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/arch"
)

func init() {
	register(Format{
		Name:  "hf",
		Doc:   "Hugging Face folder: config.json, safetensors (sharded or not), tokenizer",
		Sniff: func(p *Probe) bool { return p.Dir && p.HasExt(".safetensors") && !p.Has("adapter_config.json") },
		Open:  openHF,
		Plan:  planHF,
		Write: writeHF,
	})
}

const (
	indexName = "model.safetensors.index.json"
	oneName   = "model.safetensors"
)

// assetNames are the side files that travel with a model.
var assetNames = []string{
	"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
	"added_tokens.json", "vocab.txt", modulesName, limitsName, "config_sentence_transformers.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json",
	"LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", // must travel with many models
}

// maxAsset bounds a side file. The largest published tokenizers take about 40 MB.
const maxAsset = 256 << 20

// Reasons for refusing a folder.
var (
	ErrShardName = errors.New("shard names must be plain file names inside the folder")
	ErrIndex     = errors.New("the index does not fit the shards")
)

func openHF(ctx context.Context, dir string) (*ir.Model, error) {
	m := &ir.Model{Path: dir, Assets: map[string][]byte{}}
	if err := readHF(ctx, m, dir); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func readHF(ctx context.Context, m *ir.Model, dir string) error {
	for _, name := range assetNames {
		b, err := readSmall(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return &fault.Error{File: filepath.Join(dir, name), Err: unpath(err)}
		}
		if err := intact(filepath.Join(dir, name), b); err != nil {
			return err
		}
		m.Assets[name] = b
	}
	if err := readSentence(m, dir); err != nil {
		return err
	}
	a, q, err := readConfig(m)
	if err != nil {
		return err
	}
	handles, err := readShards(ctx, m, dir)
	if err != nil {
		return err
	}
	if q != nil {
		if handles, err = q.join(m, handles); err != nil {
			return err
		}
	}
	if a != nil {
		n := roles{m: m, role: a.HFRole, other: a.GGUFName}
		for _, t := range handles {
			n.give(t)
		}
		n.report()
	}
	settlePooler(m, handles)
	for _, t := range handles {
		if err := m.Add(t); err != nil {
			return err
		}
	}
	settle(m)
	readTokenizer(m)
	return nil
}

// readConfig fills Arch and Decoder as far as config.json allows. A folder without one, or with
// one that asks for what is not computed here, is still a catalogue.
func readConfig(m *ir.Model) (*arch.Arch, *packed, error) {
	config, ok := m.Assets["config.json"]
	if !ok {
		stop(m, fmt.Errorf("%w: the folder has no config.json", ir.ErrNoArchitecture))
		return nil, nil, nil
	}
	a, d, notes, err := arch.FromHF(config)
	if a != nil {
		m.Arch = a.Name
	} else {
		m.Arch = claimed(config)
	}
	m.Decoder = d
	if err != nil {
		stop(m, err)
	} else if a.Encodes() {
		readEncoder(m, a, config)
	}
	for _, n := range notes {
		problemf(m, "", "%s", n)
	}
	q, err := readPacked(m, config)
	return a, q, err
}

// claimed is the architecture that a configuration of unknown kind names, or "".
func claimed(config []byte) string {
	var c struct {
		ModelType     string   `json:"model_type"`
		Architectures []string `json:"architectures"`
	}
	_ = json.Unmarshal(config, &c) // arch.FromHF has reported what is wrong with it
	if c.ModelType == "" && len(c.Architectures) > 0 {
		return c.Architectures[0]
	}
	return c.ModelType
}

// readSmall reads a side file of bounded size.
func readSmall(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	if st.Size() > maxAsset {
		return nil, fmt.Errorf("%d bytes are too many for a side file, at most %d are read", st.Size(), maxAsset)
	}
	return os.ReadFile(path)
}

// readShards lists the handles of all files that the folder's index, or the folder, names.
func readShards(ctx context.Context, m *ir.Model, dir string) ([]*ir.Tensor, error) {
	files, where, err := shardNames(dir)
	if err != nil {
		return nil, err
	}
	var handles []*ir.Tensor
	left := len(where)
	for _, file := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s, err := openShard(m, filepath.Join(dir, file))
		if err != nil {
			return nil, err
		}
		m.Meta = map[string]any{}
		for k, v := range s.metadata {
			m.Meta[k] = v
		}
		for i, e := range s.tensors {
			if where != nil && where[e.Name] != file {
				problemf(m, e.Name, "%s holds it, but the index does not say so: not used", file)
				continue
			}
			t, err := s.tensor(i)
			if err != nil {
				return nil, err
			}
			handles = append(handles, t)
			left--
			delete(where, e.Name)
		}
	}
	if where != nil && left > 0 {
		lost := slices.Sorted(maps.Keys(where))
		return nil, &fault.Error{
			File: filepath.Join(dir, indexName), Tensor: lost[0],
			Err:  fmt.Errorf("%w: %s does not hold it (%d tensors are lost so)", ErrIndex, where[lost[0]], left),
			Hint: "copy the folder again",
		}
	}
	return handles, nil
}

// shardNames lists the files to read, and where the index says each tensor lies (nil without one).
func shardNames(dir string) (files []string, where map[string]string, err error) {
	if _, err := os.Stat(filepath.Join(dir, oneName)); err == nil { // first, as in transformers
		return []string{oneName}, nil, nil
	}
	path := filepath.Join(dir, indexName)
	b, err := readSmall(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		entries, err := os.ReadDir(dir)
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".safetensors") {
				files = append(files, e.Name())
			}
		}
		return files, nil, err
	case err != nil:
		return nil, nil, &fault.Error{File: path, Err: unpath(err)}
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := intact(path, b); err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, nil, &fault.Error{File: path, Err: fmt.Errorf("%w: %w", ErrIndex, err), Hint: "copy the folder again"}
	}
	if len(index.WeightMap) == 0 {
		return nil, nil, &fault.Error{File: path, Err: fmt.Errorf("%w: weight_map is empty", ErrIndex)}
	}
	for _, tensor := range slices.Sorted(maps.Keys(index.WeightMap)) {
		file := index.WeightMap[tensor]
		if file != filepath.Base(file) || strings.ContainsAny(file, `/\:`) || !filepath.IsLocal(file) || !strings.HasSuffix(file, ".safetensors") {
			return nil, nil, &fault.Error{File: path, Tensor: tensor, Err: fmt.Errorf("%w: %q", ErrShardName, file)}
		}
		files = append(files, file)
	}
	sort.Strings(files)
	files = slices.Compact(files)
	for _, file := range files {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			return nil, nil, &fault.Error{File: filepath.Join(dir, file), Err: unpath(err), Hint: "the index names this file: copy the folder again"}
		}
	}
	return files, index.WeightMap, nil
}
