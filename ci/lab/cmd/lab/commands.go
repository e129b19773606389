package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	lab "github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/cluster/guest"
)

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "lab",
		Short:         "The laboratory of linstor-rwx: a Kubernetes cluster on one machine, made to be broken",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(upCommand(), downCommand(), installCommand(), statusCommand(), kubectlCommand(), helmCommand(),
		enterCommand(), execCommand(), logsCommand(), nodeCommand(), leaksCommand())
	return root
}

func upCommand() *cobra.Command {
	var options lab.Options
	var storage, consumers []string
	command := &cobra.Command{
		Use:   "up",
		Short: "Build what is missing and bring the laboratory up",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			for _, name := range storage {
				options.Nodes = append(options.Nodes, lab.StorageNode(name))
			}
			for _, name := range consumers {
				options.Nodes = append(options.Nodes, lab.ConsumerNode(name))
			}
			options.Progress = os.Stdout
			started := time.Now()
			if _, err := lab.Up(command.Context(), options); err != nil {
				return err
			}
			fmt.Printf("the laboratory is up after %.1fs: lab kubectl get nodes\n", time.Since(started).Seconds())
			return nil
		},
	}
	command.Flags().StringSliceVar(&storage, "nodes", []string{"n1", "n2", "n3"}, "storage nodes")
	command.Flags().StringSliceVar(&consumers, "consumers", []string{"n4"}, "nodes without storage")
	command.Flags().StringVar(&options.Name, "name", "", "name of the laboratory, if there are several")
	command.Flags().StringVar(&options.Kube, "kube", "", "Kubernetes binary to use instead of building it")
	command.Flags().StringSliceVar(&options.Images, "images", nil, "tar files to use instead of the product's images")
	command.Flags().StringVar(&options.PauseImage, "pause-image", "", "name of the pods' sandbox image among --images")
	command.Flags().BoolVar(&options.NoStorage, "no-storage", false, "leave the stand-ins for LINSTOR and DRBD out")
	return command
}

func downCommand() *cobra.Command {
	var options lab.Options
	command := &cobra.Command{
		Use:   "down",
		Short: "End the laboratory and remove what it made",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return lab.Down(options) },
	}
	command.Flags().StringVar(&options.Name, "name", "", "name of the laboratory, if there are several")
	return command
}

func installCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "install",
		Short: "Install the chart of this repository, or upgrade it",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			l, err := lab.Attach()
			if err != nil {
				return err
			}
			return l.Install(command.Context(), os.Stdout)
		},
	}
}

func statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show processes, logs and nodes",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			l, err := lab.Attach()
			if err != nil {
				return err
			}
			fmt.Println(strings.Join(l.Cluster().Status(), "\n"))
			return l.Kubectl(command.Context(), os.Stdout, "get", "nodes", "-o", "wide")
		},
	}
}

func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl ARGUMENTS...",
		Short:              "Run kubectl as administrator",
		DisableFlagParsing: true,
		RunE: func(command *cobra.Command, args []string) error {
			l, err := lab.Attach()
			if err != nil {
				return err
			}
			return l.Kubectl(command.Context(), os.Stdout, args...)
		},
	}
}

func helmCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "helm ARGUMENTS...",
		Short:              "Run helm as administrator",
		DisableFlagParsing: true,
		RunE: func(command *cobra.Command, args []string) error {
			l, err := lab.Attach()
			if err != nil {
				return err
			}
			return l.Helm(command.Context(), os.Stdout, args...)
		},
	}
}

func enterCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "enter COMMAND...",
		Short:              "Run a command of this machine in the laboratory's network, with KUBECONFIG set",
		DisableFlagParsing: true,
		Args:               cobra.MinimumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			l, err := lab.Attach()
			if err != nil {
				return err
			}
			return l.Run(command.Context(), os.Stdout, args[0], args[1:]...)
		},
	}
}

func execCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "exec NODE COMMAND...",
		Short:              "Run a command on a node, as root",
		DisableFlagParsing: true,
		Args:               cobra.MinimumNArgs(2),
		RunE: func(command *cobra.Command, args []string) error {
			node, err := attachNode(args[0])
			if err != nil {
				return err
			}
			code, err := node.Stream(command.Context(), guest.Command{Args: args[1:]}, os.Stdout, os.Stderr)
			if err == nil && code != 0 {
				return exitCode(code)
			}
			return err
		},
	}
}

func logsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "logs NODE [PROGRAM]",
		Short: "Show a node's console, or the log of a program on it: dbus, logind, containerd, kubelet, kube-proxy, storage",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(command *cobra.Command, args []string) error {
			l, err := lab.Attach()
			if err != nil {
				return err
			}
			var content []byte
			if len(args) == 1 {
				// Also processes of the host: kube-apiserver, lab-storage, ...
				content, err = os.ReadFile(l.Cluster().LogPath(args[0]))
			} else {
				var node *lab.Node
				if node, err = l.Node(args[0]); err == nil {
					content, err = node.ReadFile(command.Context(), guest.LogDirectory+"/"+args[1]+".log")
				}
			}
			if err != nil {
				return err
			}
			_, err = os.Stdout.Write(content)
			return err
		},
	}
}

func nodeCommand() *cobra.Command {
	command := &cobra.Command{Use: "node", Short: "Break a node and mend it"}
	actions := []struct {
		name, short string
		run         func(ctx context.Context, node *lab.Node) error
	}{
		{"off", "Cut its power", func(ctx context.Context, n *lab.Node) error { return n.PowerOff(ctx) }},
		{"on", "Switch it on, with its old disk, and wait until it is Ready", func(ctx context.Context, n *lab.Node) error {
			if err := n.PowerOn(ctx); err != nil {
				return err
			}
			return n.WaitReady(ctx)
		}},
		{"shutdown", "Shut it down: its pods end, its disk is synced, it powers off", func(ctx context.Context, n *lab.Node) error { return n.ShutDown(ctx) }},
		{"cut", "Cut it off from all other nodes and the API server", func(ctx context.Context, n *lab.Node) error { return n.CutNetwork(ctx, lab.BothNetworks) }},
		{"cut-kubernetes", "Cut its Kubernetes network only", func(ctx context.Context, n *lab.Node) error { return n.CutNetwork(ctx, lab.KubernetesNetwork) }},
		{"cut-drbd", "Cut its DRBD connections only", func(ctx context.Context, n *lab.Node) error { return n.CutNetwork(ctx, lab.DRBDNetwork) }},
		{"heal", "Undo all cuts", func(ctx context.Context, n *lab.Node) error { return n.Heal(ctx) }},
		{"freeze", "Stop it, as if the machine hung", func(ctx context.Context, n *lab.Node) error { return n.Freeze(ctx) }},
		{"thaw", "Let it go on", func(ctx context.Context, n *lab.Node) error { return n.Thaw(ctx) }},
	}
	for _, action := range actions {
		command.AddCommand(&cobra.Command{
			Use: action.name + " NODE", Short: action.short, Args: cobra.ExactArgs(1),
			RunE: func(command *cobra.Command, args []string) error {
				node, err := attachNode(args[0])
				if err != nil {
					return err
				}
				return action.run(command.Context(), node)
			},
		})
	}
	return command
}

func leaksCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "leaks",
		Short: "List what exports left behind",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			l, err := lab.Attach()
			if err != nil {
				return err
			}
			leaks, err := l.Leaks(command.Context())
			if err != nil {
				return err
			}
			for _, leak := range leaks {
				fmt.Println(leak)
			}
			if len(leaks) > 0 {
				return fmt.Errorf("%d leaks", len(leaks))
			}
			return nil
		},
	}
}

func attachNode(name string) (*lab.Node, error) {
	l, err := lab.Attach()
	if err != nil {
		return nil, err
	}
	return l.Node(name)
}
