package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/prune"
	"github.com/pare-dev/pare/prune/channels"
	"github.com/pare-dev/pare/targets/recipe"
)

// structureFlags say which whole parts of a model go.
type structureFlags struct {
	structure, score                       string
	ratio                                  ratio
	parameters                             int
	bytes                                  size
	ffn, kvHeads, hidden, blocks, multiple int
}

func (fl *structureFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&fl.structure, "structure", "", "what goes whole: "+strings.Join(prune.StructureNames(), ", ")+"; of graphs channels")
	f.Var(&fl.ratio, "ratio", "structure: share of the parameters of the blocks that goes, 0.25 or 25%; of the channels of graphs")
	intFrom(f, &fl.parameters, "parameters", "", 1, 0, "structure: most parameters that the model has afterwards")
	f.Var(&fl.bytes, "bytes", "structure: most bytes that its weights take, such as 1GiB")
	intFrom(f, &fl.ffn, "ffn", "", 1, 0, "width: neurons of the MLP that stay in every block; default as the budget asks")
	intFrom(f, &fl.kvHeads, "kv-heads", "", 1, 0, "width: key heads that stay in every block, with the query heads that share them")
	intFrom(f, &fl.hidden, "hidden", "", 1, 0, "width: channels of the residual stream that stay; default all")
	intFrom(f, &fl.blocks, "blocks", "", 1, 0, "depth: blocks that stay; default as the budget asks")
	intFrom(f, &fl.multiple, "multiple", "", 1, 0, "width: what the neurons are a multiple of; default the block length of stored types, where that leaves a choice; channels: 8, less for groups with few")
	f.StringVar(&fl.score, "score", "", "what parts are chosen by: "+strings.Join(prune.Scores(), ", ")+"; default activation for width, influence for depth; of channels "+strings.Join(channels.Scores(), ", ")+"; default fit with --calibration, magnitude without")
	complete(c, "structure", append(prune.StructureNames(), channelStructure)...)
	complete(c, "score", append(prune.Scores(), "l1", "gain")...)
}

// structureOnly are the flags that say nothing without --structure, and weightsOnly those that contradict it.
var (
	structureOnly = []string{"ratio", "parameters", "bytes", "ffn", "kv-heads", "hidden", "blocks", "multiple", "score"}
	weightsOnly   = []string{"method", "sparsity", "pattern", "scope", "only", "skip", "imatrix"}
)

// pass makes the line of the recipe.
func (fl *structureFlags) pass(given func(flag string) bool) (recipe.Pass, error) {
	if fl.structure == "" {
		for _, name := range structureOnly {
			if given(name) {
				return recipe.Pass{}, flagFault(name, misuse("add --structure width", "it says what goes whole, and nothing says of what kind"))
			}
		}
		return recipe.Pass{}, nil
	}
	if names := prune.StructureNames(); !slices.Contains(names, fl.structure) {
		return recipe.Pass{}, misuse("take "+strings.Join(names, " or ")+", of graphs "+channelStructure, "no structure is called %q", fl.structure)
	}
	for _, name := range weightsOnly {
		if given(name) {
			return recipe.Pass{}, flagFault(name, misuse("leave one of them out", "it chooses single weights, --structure whole parts"))
		}
	}
	p := recipe.Pass{
		Use: prune.Prefix + fl.structure, Parameters: fl.parameters, Bytes: int(fl.bytes), FFN: fl.ffn, KVHeads: fl.kvHeads,
		Hidden: fl.hidden, Blocks: fl.blocks, Multiple: fl.multiple, Score: fl.score,
	}
	if fl.ratio > 0 {
		r := recipe.Ratio(fl.ratio)
		p.Ratio = &r
	}
	return p, nil
}
