package trainer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/trainer/fitting"
)

// transactionalID names the right to publish model versions. With access
// control the trainer needs Write on it.
const transactionalID = "churn-trainer-models"

// errNumbersUsedUp is matched when no number is left for a version.
var errNumbersUsedUp = errors.New("no number is left for a model version")

// errSuperseded is matched when another trainer has published a version that
// knew labels as new as ours.
var errSuperseded = errors.New("superseded by another trainer's version")

// publish gives m its number, stage, reason and metrics, and appends it to the
// topic. judge compares the model with a champion (nil: there is none); m.Reason
// is what the training was for and is appended to its verdict.
//
// Whatever else trains at the same time, the verdict is about the champion that
// the version follows in the topic, and the number is one that no version had:
// first the partition is fenced, so that no other trainer can append any more,
// then everything before the fence is taken in, and then m is appended. A
// trainer that fences in between takes the right from us: our append fails, and
// all is done again, after its version. So a trainer that was out of touch for
// however long cannot put a version after one it does not know.
//
// Versions made champion by hand are not fenced off. One that comes in the
// moment between our reading and appending is followed by ours.
func (t *Trainer) publish(ctx context.Context, m *schemas.ModelVersion, judge func(*models.Version) fitting.Verdict) (fitting.Verdict, error) {
	var verdict fitting.Verdict
	judged := int64(-1)
	trigger := m.Reason
	t.mu.Lock()
	known := t.newest // what was trained on is newer than its labels
	t.mu.Unlock()
	attempt := func(ctx context.Context) error {
		out, err := t.cfg.Cluster.Fence(ctx, kafka.FenceConfig{
			TransactionalID: transactionalID,
			Topic:           schemas.TopicModels,
		})
		if err != nil {
			return retry.Permanent(err)
		}
		marker, err := out.Append(ctx, []kafka.Record{{Key: []byte(schemas.MarkerKey)}})
		if err != nil {
			return again(err)
		}
		if err := t.models.WaitFor(ctx, marker); err != nil {
			return err
		}
		if v := t.models.Get(m.Version); v != nil && v.SHA256 == m.SHA256 && v.CreatedAt == m.CreatedAt {
			return nil // by a former attempt: only the answer got lost
		}
		if list := t.models.List(); len(list) > 0 && list[0].Version != known && t.knew(list[0]) >= m.LabelsUntil {
			return retry.Permanent(fmt.Errorf("%w: version %d knew labels until %s", errSuperseded, list[0].Version,
				time.UnixMilli(list[0].LabelsUntil).UTC().Format(time.RFC3339)))
		}
		champion := t.models.Champion()
		number := int64(0)
		if champion != nil {
			number = champion.Version
		}
		if judged != number {
			verdict, judged = judge(champion), number
		}
		m.Version = t.models.Highest() + 1
		if m.Version > schemas.MaxModelVersion {
			return retry.Permanent(fmt.Errorf("%w after %d", errNumbersUsedUp, m.Version-1))
		}
		m.Stage = schemas.StageChallenger
		if verdict.Promote {
			m.Stage = schemas.StageChampion
		}
		m.Reason = verdict.Reason + "; trained for: " + trigger
		m.Metrics, m.ChampionMetrics = verdict.Metrics, verdict.ChampionMetrics
		published, err := out.Append(ctx, []kafka.Record{{Key: models.Key(m.Version), Value: t.cfg.Codec.AppendModel(nil, m)}})
		if err != nil {
			return again(err)
		}
		// What is decided next is decided knowing it: else labels that come at this
		// moment would be taken for those of a first model again.
		return t.models.WaitFor(ctx, published)
	}
	err := retry.Do(ctx, t.log, "publish a model version", attempt)
	if err == nil {
		t.mu.Lock()
		t.newest = m.Version
		t.mu.Unlock()
	}
	return verdict, err
}

// again marks an error as permanent unless fencing once more may cure it.
func again(err error) error {
	if errors.Is(err, kafka.ErrFenced) || errors.Is(err, kafka.ErrOutOfSequence) {
		// Permanent for the producer, which is why the error is not wrapped.
		return fmt.Errorf("the partition has to be fenced again: %v", err)
	}
	return retry.Permanent(err)
}
