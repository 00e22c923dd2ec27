package models

import (
	"context"
	"fmt"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// Producer writes records and returns when they are acknowledged. kafka.Producer
// is one.
type Producer interface {
	Produce(ctx context.Context, topic string, records ...kafka.Record) error
}

// ByHand is the reason of a version that somebody has activated.
const ByHand = "activated by hand"

// Activate publishes a version once more, as the champion, with a reason in
// words; that is also how one goes back to an older version. It returns when
// the record is acknowledged; every Feed then learns of it by itself. Publishing
// the champion again does no harm.
//
// It registers the schemas first, which it needs to write. It fails when the
// registry or Kafka do, or when ctx ends before they answer.
func Activate(ctx context.Context, producer Producer, codec *schemas.Codec, v *Version, reason string) error {
	if err := codec.Register(ctx); err != nil {
		return fmt.Errorf("registering the schemas: %w", err)
	}
	again := v.ModelVersion
	again.Stage = schemas.StageChampion
	again.Reason = reason
	err := producer.Produce(ctx, schemas.TopicModels, kafka.Record{
		Key: Key(v.Version), Value: codec.AppendModel(nil, &again),
	})
	if err != nil {
		return fmt.Errorf("publishing version %d: %w", v.Version, err)
	}
	return nil
}
