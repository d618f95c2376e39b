// Package samples makes inputs of graphs from files: arrays, pictures, sounds, texts, and files as they are.
// What a file becomes follows from its name, from the type and shape of the input, and from what a recipe says
// under [preprocess.NAME].
//
//	set, err := samples.Open(program.Inputs(), []samples.Given{{Input: "image", Values: []string{"cat.png"}}}, opt)
//	x, err := set.Sample(ctx, 0)      every input of the first run, by name
//
// A file is one sample or several: an array whose first axis counts them, a sound that is cut into chunks, a
// text of several lines, a folder of files. Inputs that have one sample give it to every run. Inputs that
// continue with what an output was (State) are left to the caller: States says which, Fresh when they begin anew.
package samples
