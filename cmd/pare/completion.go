package main

import (
	"github.com/spf13/cobra"
)

func (a *app) completionCmd() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a completion script for bash, zsh, fish or powershell",
		Long: `Print a completion script for a shell. It completes verbs, flags, targets, types, methods and the
tensor names of the model on the line. The script goes where your shell looks for such scripts:
/etc/bash_completion.d, a folder of zsh's fpath, ~/.config/fish/completions.`,
		Example:   `  pare completion bash > pare.bash`,
		Args:      exactly("a shell: bash, zsh, fish or powershell"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.out, true)
			case "zsh":
				return root.GenZshCompletion(a.out)
			case "fish":
				return root.GenFishCompletion(a.out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.out)
			}
			return misuse("take bash, zsh, fish or powershell", "no completion for shell %q", args[0])
		},
	}
}
