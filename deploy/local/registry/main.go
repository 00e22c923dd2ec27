// Command registry serves the embedded schema registry on loopback, for a
// stack that is real otherwise: Confluent-compatible registries are not to be
// had from package registries. It stops on SIGTERM or SIGINT.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/churnstream/churnstream/internal/embedded"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8081", "address to listen on")
	data := flag.String("data", "", "directory of the schemas; without it they are in memory")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	registry, err := embedded.StartRegistry(embedded.RegistryConfig{
		Addr: *listen, Dir: *data, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
	<-ctx.Done()
	registry.Close()
}
