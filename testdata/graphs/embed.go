// Package graphs carries the networks that travel inside the pare binary: digits and speech, with samples and recipes.
// README.md says where each file comes from. `pare demo vision` and `pare demo audio` write them out.
package graphs

import "embed"

// Files holds the networks as they lie in this folder.
//
//go:embed README.md mnist/mnist-8.onnx mnist/images-idx3-ubyte.gz mnist/labels-idx1-ubyte.gz mnist/build.toml
//go:embed silero/silero_vad_16k_op15.onnx silero/speech.wav silero/recipe.toml silero/build.toml
var Files embed.FS
