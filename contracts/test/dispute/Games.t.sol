// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {CallbackStatus, RequestStatus} from "../../src/Types.sol";
import {IDisputeGame, Turn} from "../../src/interfaces/IDisputeGame.sol";
import {IStepVerifier} from "../../src/interfaces/IStepVerifier.sol";
import {GameWorld} from "./GameWorld.sol";
import {Trace, Traces} from "./Traces.sol";

/// @title Whole games: the honest side wins wherever the lie is
contract GamesTest is GameWorld {
    using Traces for Trace;

    /// A lie at this element, played to the end, and carried out.
    function convict(uint256 node, uint256 leaf, uint256 index, Partials partials) internal returns (uint256 moves) {
        Trace memory right = Traces.truth(toy);
        Trace memory wrong = right.copy().lie(node, leaf, index);
        Play memory p = posted(wrong.leaves[wrong.leaves.length - 1][0]);
        challenge(p, carol);
        moves = play(p, wrong, right, partials);
        reject(p);
        assertStatus(oracle.unpack(p.r).id, RequestStatus.Requested, CallbackStatus.None, "open again");
        assertTrue(disputes.creditOf(carol) >= BOND + REWARD, "bond and reward");
    }

    function test_games_liarAtEveryNode() external {
        for (uint256 node = 0; node < 11; ++node) {
            convict(node, 0, node % 4, Partials.AddUp);
        }
    }

    function test_games_liarAtFirstMiddleAndLastLeafAndElement() external {
        toy.shape(9, 100);
        for (uint256 leaf = 0; leaf < 100; leaf += 33) {
            for (uint256 index = 0; index < 4; ++index) {
                convict(4, leaf, index, Partials.AddUp);
            }
        }
    }
}
