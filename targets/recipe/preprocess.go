package recipe

// Inputs says how files become inputs of a graph, by the names of the inputs.
type Inputs map[string]Preprocess

// Preprocess says how a file becomes an input. Zero values mean "not said": the kind of a file follows from its
// name, sizes and layout from the shape of the input.
type Preprocess struct {
	As string `json:"as,omitempty" doc:"what files are; default by their name" enum:"array,image,audio,text,bytes"`

	Width    int     `json:"width,omitempty" doc:"image: pixels across; default from the input's shape"`
	Height   int     `json:"height,omitempty" doc:"image: pixels down; default from the input's shape"`
	Fit      string  `json:"fit,omitempty" doc:"image: how it comes to that size: stretch (default), crop (fill it, cut what is over), pad (all of it, black around)" enum:"stretch,crop,pad"`
	Resize   int     `json:"resize,omitempty" doc:"image, with crop: pixels of the shorter side before the middle is cut out; default as few as fill the size"`
	Filter   string  `json:"filter,omitempty" doc:"image: how pixels are resampled; default auto: area where it shrinks, bilinear where it grows" enum:"auto,bilinear,area,nearest"`
	Layout   string  `json:"layout,omitempty" doc:"image: order of the axes; default from the input's shape" enum:"nchw,nhwc"`
	Channels string  `json:"channels,omitempty" doc:"image: order of the channels; default rgb, or gray when the input has one" enum:"rgb,bgr,gray"`
	Scale    *Ratio  `json:"scale,omitempty" doc:"factor on every value, before mean and std; default 1"`
	Mean     []Ratio `json:"mean,omitempty" doc:"subtracted after scale; one number, or one a channel"`
	Std      []Ratio `json:"std,omitempty" doc:"divided by after mean; one number, or one a channel"`

	Rate   int `json:"rate,omitempty" doc:"audio: samples a second that the model wants; files of another rate are refused"`
	Chunk  int `json:"chunk,omitempty" doc:"audio: samples in a run; default all of the file"`
	Hop    int `json:"hop,omitempty" doc:"audio: samples from one chunk to the next; default chunk"`
	Before int `json:"before,omitempty" doc:"audio: samples of the last chunk that a chunk begins with, zeros at first; they count in chunk"`

	Begin   int  `json:"begin,omitempty" doc:"bytes: how many from the beginning of the file"`
	End     int  `json:"end,omitempty" doc:"bytes: how many from the end of the file, after those"`
	Block   int  `json:"block,omitempty" doc:"bytes: how far from beginning and end they are looked for; default no limit"`
	Strip   bool `json:"strip,omitempty" doc:"bytes: leave white space at both ends of the file out"`
	Padding int  `json:"padding,omitempty" doc:"bytes, text: the number that stands where nothing is; default 0"`

	Tokenizer string `json:"tokenizer,omitempty" doc:"text: folder or file of the tokenizer (tokenizer.json, vocab.txt) that makes token ids"`
	Tokens    int    `json:"tokens,omitempty" doc:"text: most tokens; default as many as the input's shape has"`

	Value string `json:"value,omitempty" doc:"what the input gets when nobody gives it: zeros, ones, a number, or a file"`
	Mask  string `json:"mask,omitempty" doc:"input of token ids whose tokens this input has ones for, and zeros for padding"`
	Types string `json:"types,omitempty" doc:"input of token ids beside which this input has zeros: all tokens are of the first text"`
	State string `json:"state,omitempty" doc:"output of the last chunk that this input continues with; zeros at the beginning of every file"`
}

// ValueFile is the file that Value names, "" when it is zeros, ones or a number.
func (p Preprocess) ValueFile() string {
	if p.Value == "zeros" || p.Value == "ones" || isNumber(p.Value) {
		return ""
	}
	return p.Value
}
