package recipe

// Distill says how the model learns, after what is merged and pruned, to give what its teacher gives.
type Distill struct {
	Teacher      string   `json:"teacher,omitempty" doc:"model to learn from; default the source before it was pruned; \"none\" learns from the text alone"`
	Text         []string `json:"text" doc:"files to learn from: text, JSON lines (FILE or FILE:FIELD) or token ids (.npy), read in order"`
	Tokens       int      `json:"tokens,omitempty" doc:"tokens to read, counted as often as they are read; default the whole text once"`
	Context      int      `json:"context,omitempty" doc:"tokens in a sequence; default 256"`
	Batch        int      `json:"batch,omitempty" doc:"sequences in a step; default 16"`
	Rate         Ratio    `json:"rate,omitempty" doc:"learning rate at its highest; default 0.001"`
	Decay        Ratio    `json:"decay,omitempty" doc:"weight decay of matrices; default 0"`
	Loss         string   `json:"loss,omitempty" doc:"what is made small between teacher and student; default kl" enum:"kl,reverse-kl,js"`
	Temperature  Ratio    `json:"temperature,omitempty" doc:"of both sides' probabilities; default 1"`
	CrossEntropy Ratio    `json:"cross_entropy,omitempty" doc:"share of the text itself in the loss; default 0"`
	Train        string   `json:"train,omitempty" doc:"what learns: everything, what the blocks hold, or norms and biases; default all" enum:"all,blocks,norms"`
	Aware        string   `json:"aware,omitempty" doc:"stored type to be right for, such as q4_0: products use the weights as it gives them back"`
}
