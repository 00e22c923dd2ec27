package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/models/listing"
	"github.com/churnstream/churnstream/schemas"
)

type modelsCommand struct {
	List     modelsListCommand     `cmd:"" help:"List the versions, newest first."`
	Show     modelsShowCommand     `cmd:"" help:"Show one version: its figures, or the model itself."`
	Activate modelsActivateCommand `cmd:"" help:"Make a version the champion: scorers switch to it without a restart."`
}

// directory is every model version there is, and where they are.
type directory struct {
	*models.Feed
	cluster *kafka.Cluster
	codec   *schemas.Codec
}

// directory reads every model version there is.
func (c *answering) directory(ctx context.Context, log *slog.Logger, use func(*directory) error) error {
	cluster, codec, err := c.openWithCodec(ctx, schemas.TopicModels, log)
	if err != nil {
		return err
	}
	defer cluster.Close()
	d := &directory{models.NewFeed(models.FeedConfig{Cluster: cluster, Codec: codec, Logger: log}), cluster, codec}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	select {
	case <-d.CaughtUp():
	case err := <-done:
		if err == nil {
			err = ctx.Err()
		}
		return fmt.Errorf("reading %s: %w", schemas.TopicModels, err)
	}
	return use(d)
}

func (d *directory) version(number int64) (*models.Version, error) {
	if v := d.Get(number); v != nil {
		return v, nil
	}
	return nil, fmt.Errorf("there is no valid model version %d; churnstream models list shows those there are", number)
}

type modelsListCommand struct {
	answering
}

func (c *modelsListCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	return c.directory(ctx, log, func(d *directory) error {
		return listing.Table(out, d.List(), d.Champion())
	})
}

type modelsShowCommand struct {
	answering
	Version int64 `arg:"" help:"Version to show."`
	Payload bool  `help:"Print the model itself, as churnstream explain --model takes it."`
}

func (c *modelsShowCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	return c.directory(ctx, log, func(d *directory) error {
		v, err := d.version(c.Version)
		if err != nil {
			return err
		}
		if c.Payload {
			_, err := fmt.Fprintln(out, v.Payload)
			return err
		}
		return listing.JSON(out, v, d.Champion())
	})
}

type modelsActivateCommand struct {
	answering
	Version int64 `arg:"" help:"Version to make the champion."`
}

// Help is shown by churnstream models activate --help.
func (modelsActivateCommand) Help() string {
	return `Publishes the version once more as the champion. The trainer's next model has to be better than this one.

Example:
  churnstream models activate 3`
}

func (c *modelsActivateCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	return c.directory(ctx, log, func(d *directory) error {
		v, err := d.version(c.Version)
		if err != nil {
			return err
		}
		if champion := d.Champion(); champion != nil && champion.Version == v.Version {
			fmt.Fprintf(out, "version %d is the champion already\n", v.Version)
			return nil
		}
		producer := d.cluster.NewProducer(kafka.ProducerConfig{})
		if err := models.Activate(ctx, producer, d.codec, v, models.ByHand); err != nil {
			return err
		}
		fmt.Fprintf(out, "version %d is the champion now\n", v.Version)
		return nil
	})
}
